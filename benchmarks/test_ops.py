"""The same cases for pytest-benchmark: ``pytest benchmarks --benchmark-only``."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from ncfast.bench.contract import Absent

from . import gate
from .cases import Case, cases
from .providers import PROVIDERS, prepare


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("case", cases(quick=True), ids=lambda case: case.title)
def test_op(benchmark: BenchmarkFixture, case: Case, provider: str) -> None:
    """Time one provider on one small case, once its results are right."""
    try:
        gate.check(provider, case)
        prepared = prepare(provider, case.name, case.inputs())
    except Absent as reason:
        pytest.skip(f"{provider} {reason}")
    benchmark.extra_info["note"] = prepared.note
    benchmark.pedantic(prepared.call, rounds=3, warmup_rounds=1)
