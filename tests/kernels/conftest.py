"""Parametrises the contract of ``interpreted.py``: one backend, the dtypes its kernels take."""

from __future__ import annotations

import pytest
import torch

from ncfast import check_device_errors
from ncfast.testing import sample_inputs

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
                # Thousands of programs and no new path: once is enough.
                if not sample.name.startswith("many-")
                or (dtype == torch.bfloat16 and name == "sample")
            ]
            metafunc.parametrize(name, samples)


@pytest.fixture(autouse=True)
def nothing_bad_is_left():
    """Fail the test whose kernels complained of good data."""
    yield
    check_device_errors()
