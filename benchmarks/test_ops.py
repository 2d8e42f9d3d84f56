"""The same cases for pytest-benchmark: ``pytest benchmarks --benchmark-only``."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from .cases import Case, cases
from .providers import providers
from .run import gate


@pytest.mark.parametrize("provider", list(providers()))
@pytest.mark.parametrize("case", cases(quick=True), ids=lambda c: f"{c.op}-{c.dtype}")
def test_op(benchmark: BenchmarkFixture, case: Case, provider: str) -> None:
    """Time one provider on one small case, once its results are right."""
    verdict = gate(case, provider)
    if verdict == "absent":
        pytest.skip(f"{provider} does not have {case.op}")
    assert verdict == "ok"
    prepared = providers()[provider](case.op, case.inputs())
    assert prepared is not None
    benchmark.pedantic(prepared, rounds=3, warmup_rounds=1)
