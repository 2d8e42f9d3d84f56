"""The contract on other builds of the emulator: in small chunks, and under the race detector.

A build is chosen as a process loads it, so each runs in a process of its own. One alone:

    NCFAST_TEST_EMULATOR=races pytest tests/ops/test_cuda_host.py -k "class_moments and float32"
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .backends import OPS
from .test_cuda_host import WITH_BACKWARD

ROOT = Path(__file__).parents[2]
DTYPES = ("float32", "bfloat16", "float16")
# Enough for every launch of an op with products: those of float32 rows, and of 16-bit ones.
QUICK = [("linear_argmax", "bfloat16"), ("class_moments", "float32"), ("alignment", "float32")]


def run(kind: str, *targets: str) -> str:
    """Run tests on a build of the emulator in a process of their own; return what it said."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *targets]
    environment = os.environ | {"NCFAST_TEST_EMULATOR": kind, "OMP_NUM_THREADS": "1"}
    # Set while this process has a library of its own: the other one would load that one first.
    environment.pop("NCFAST_CUDA_HOST_LIBRARY", None)
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-6000:]
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed is not None
    return passed[1]


def contract_of(op: str, dtype: str, *tests: str) -> list[str]:
    """Return the tests of an op in a dtype, as pytest names them."""
    return [
        f"tests/ops/test_cuda_host.py::{test}[{op}-torch.{dtype}]"
        for test in tests
        if test != "test_gradients" or op in WITH_BACKWARD
    ]


CASES = [
    pytest.param(op, dtype, marks=() if (op, dtype) in QUICK else pytest.mark.slow)
    for op in OPS
    for dtype in DTYPES
]


@pytest.mark.parametrize(("op", "dtype"), CASES)
def test_no_kernel_races(op, dtype):
    run("races", *contract_of(op, dtype, "test_agreement", "test_gradients"))


@pytest.mark.parametrize(("op", "dtype"), CASES)
def test_every_loop_goes_round(op, dtype):
    tests = ("test_agreement", "test_gradients", "test_every_schedule_gives_the_same_bits")
    run("small", *contract_of(op, dtype, *tests))


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_by_hand_in_small_chunks(op):
    run("small", f"tests/ops/test_{op}.py", "-k", "cuda-host")
