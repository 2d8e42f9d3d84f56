"""Parametrises the contracts of this folder: the GPU backends and dtypes of every op."""

from __future__ import annotations

import pytest
import torch

from ncfast.testing import sample_inputs

from ..ops.backends import keep_what_exists
from .on_device import BACKENDS, DTYPES, kernels, nothing_bad_is_left  # noqa: F401

GRADIENTS = ("test_gradient_agreement", "test_each_output_and_layout_of_upstream_gradients")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test every backend that holds its kernels, and every sample in every dtype."""
    op = getattr(metafunc.cls, "op", None)
    if op is None:
        if metafunc.cls is not None and "backend" in metafunc.fixturenames:
            metafunc.parametrize("backend", BACKENDS)  # of test_by_hand.py
        return
    wanted = kernels(op)
    if metafunc.definition.originalname in GRADIENTS:
        wanted = [b for b in wanted if b in kernels(f"{op}_backward")]
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", wanted)
    if "backward_backend" in metafunc.fixturenames:
        both = [b for b in wanted if b in kernels(f"{op}_backward")]
        metafunc.parametrize("backward_backend", both if metafunc.cls.differentiable else [])
    for name in ("sample", "gradient_sample"):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, _samples(op))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests in float64, which kernels of GPUs reject."""
    keep_what_exists(config, items)


def _samples(op: str) -> list[object]:
    return [
        pytest.param(sample, id=f"{sample}-{str(dtype).removeprefix('torch.')}")
        for dtype in DTYPES
        for sample in sample_inputs(op, dtype)
        if not sample.name.endswith("-float64")  # test_refuses_float64
    ]


@pytest.fixture(autouse=True)
def default_generator():
    """Let no test depend on the one before."""
    torch.manual_seed(0)
