"""Gives tests their backends, and the contract of ``contract.py`` its samples."""

from __future__ import annotations

import pytest

from ncfast.testing import sample_inputs

from .backends import EVERY, keep_what_exists
from .contract import BACKENDS, DTYPES, threads


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread: on busy cores, waking a second costs a tiny call many times its work.

    That more threads give the same bits is a test of its own.
    """
    with threads(1):
        yield


@pytest.fixture(autouse=True)
def library(request: pytest.FixtureRequest):
    """Load the host emulator's library for a test that runs on it."""
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and callspec.params.get("backend") == "cuda-host":
        request.getfixturevalue("cuda_host")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test every backend, and every sample in every dtype, if it asks for them."""
    op = getattr(metafunc.cls, "op", None)
    if "backend" in metafunc.fixturenames:
        # The contract runs on the emulator in test_cuda_host.py, many samples to a test.
        metafunc.parametrize("backend", BACKENDS if op else EVERY)
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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests in float64 on backends that reject it."""
    keep_what_exists(config, items)
