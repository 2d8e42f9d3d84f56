"""Parametrises the contract of ``interpreted*.py``: one backend, the dtypes its kernels take."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ncfast import check_device_errors
from ncfast.testing import sample_inputs
from tests.ops.backends import keep_what_exists
from tests.ops.contract import IN_FLOAT16

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test the interpreter, and every sample in every dtype, if it asks for them."""
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", ["triton-interpret"])
    for name in ("sample", "gradient_sample"):
        if name in metafunc.fixturenames:
            samples = [
                pytest.param(sample, id=f"{sample}-{str(dtype).removeprefix('torch.')}")
                for dtype in DTYPES
                for sample in sample_inputs(metafunc.cls.op, dtype)
                if worthwhile(metafunc.cls.op, sample.name, dtype, name == "gradient_sample")
            ]
            metafunc.parametrize(name, samples)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests in float64, which kernels of GPUs reject, and what shows nothing new."""
    keep_what_exists(config, items)
    left_out = [item for item in items if item.nodeid.endswith(AGAIN)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.nodeid.endswith(AGAIN)]


# What tests by hand ask of a kernel once more, in seconds: -Inf (tests of bad data have it, or
# another place), terms of an average of means, which is made above kernels, ties among
# many tokens of many classes, after each of them.
NOT_FINITE, TERMS = "test_refuses_what_is_not_finite", "test_terms_of_small_and_large_features"
AGAIN = (
    f"PairStatsByHand::{NOT_FINITE}[triton-interpret--inf]",
    *(f"{NOT_FINITE}[triton-interpret-{value}]" for value in ("inf-1", "-inf-140")),
    "test_ties_go_to_the_lowest_id_wherever_they_are[triton-interpret-600-1103]",
    *(
        f"{TERMS}[triton-interpret-{kind}-ema]"
        for kind in ("cdnv", "log_distance", "riesz", "equiangular")
    ),
)

# Ops whose samples take seconds each: what 16 bits change in them, as a rule the loads.
SLOW = {
    "linear_cross_entropy": (
        *("primes", "transposed", "ignored-nan", "width-129", "stored-softcap", "smoothed"),
        *("shard", "padded", "many-classes"),
    ),
    "pair_stats": ("primes", "index-strided", "zero-distance", "width-129"),
}


def worthwhile(op: str, sample: str, dtype: torch.dtype, gradient: bool) -> bool:
    """Leave out what the kernels refuse, and repetitions that take seconds to interpret."""
    # interpreted_tiles.py tests several tiles with fewer points; few bins are for the emulator.
    if op == "pair_stats" and sample in ("two-tiles", "packed-tiles", "histogram-of-few"):
        return False
    if dtype != torch.float32 and sample not in SLOW.get(op, (sample,)):
        return False
    if dtype == torch.float16 and sample not in IN_FLOAT16:
        return False
    if sample.endswith("-float64"):  # interpreted_contract.py tests the refusal
        return False
    if op == "linear_cross_entropy" and sample.startswith("long-"):
        return False  # a class of many tokens is no path of this op's
    if sample.startswith("many-"):  # thousands of programs, and no new path
        return dtype == torch.bfloat16 and not gradient
    return "long-class-transposed" not in sample or dtype == torch.float32


@pytest.fixture(autouse=True)
def quiet():
    """Let NaN and Inf pass without a word, as a GPU does."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture(autouse=True)
def nothing_bad_is_left():
    """Fail the test whose kernels complained of good data."""
    yield
    check_device_errors()
