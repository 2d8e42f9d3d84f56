"""Parametrises the tests of ``contract.py`` for the op that a test class names."""

from __future__ import annotations

import pytest

from ncfast.testing import sample_inputs

from .contract import BACKENDS, DTYPES, threads


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread: on busy cores, waking a second costs a tiny call many times its work.

    That more threads give the same bits is a test of its own.
    """
    with threads(1):
        yield


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test every backend, and every sample in every dtype, if it asks for them."""
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", BACKENDS)
    op = getattr(metafunc.cls, "op", None)
    for name in ("sample", "gradient_sample"):
        if op is None or name not in metafunc.fixturenames:
            continue
        needed = name == "sample" or metafunc.cls.differentiable
        samples = [
            pytest.param(sample, id=f"{sample}-{str(dtype).removeprefix('torch.')}")
            for dtype in DTYPES
            for sample in (sample_inputs(op, dtype) if needed else [])
        ]
        metafunc.parametrize(name, samples)
