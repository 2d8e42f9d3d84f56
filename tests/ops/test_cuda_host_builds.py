"""The contract on other builds of the emulator: in small chunks, and under the race detector.

A build is chosen as a process loads it, so each runs in a process of its own. One alone:

    NCFAST_TEST_EMULATOR=races pytest tests/ops/test_cuda_host.py -k "class_moments and float32"
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.serving import OF_KERNELS, Server

from .backends import OPS, tests_in
from .files import FAR_ROWS, HERE, OF_EVERY_OP, files_of
from .test_cuda_host import WITH_BACKWARD

ROOT = Path(__file__).parents[2]
SECONDS = 590.0  # of a run: before the limit of a test
SHARED = (*OF_EVERY_OP, FAR_ROWS)
DTYPES = ("float32", "bfloat16", "float16")
# A build takes most of a minute. Of the detector itself the quick tier has tests/emulator.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Return what runs tests on a build of the emulator, each time in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    # Set while this process has a library of its own: the other one would load that one first.
    environment.pop("NCFAST_CUDA_HOST_LIBRARY", None)
    output = tmp_path_factory.mktemp("builds") / "pytest.txt"
    server = Server(ROOT, environment, output, OF_KERNELS)  # has torch: processes are forked

    def run(kind: str, *targets: str) -> str:
        arguments = ["-p", "no:cacheprovider", "-p", "no:xdist", *targets]
        code, said = server.run(arguments, {"NCFAST_TEST_EMULATOR": kind}, SECONDS)
        assert code == 0, f"exit {code}\n{said[-6000:]}"
        passed = re.search(r"(\d+) passed", said)
        assert passed is not None
        return passed[1]

    yield run
    server.close()


def contract_of(op: str, dtype: str, *tests: str) -> list[str]:
    """Return the tests of an op in a dtype, as pytest names them."""
    return [
        f"tests/ops/test_cuda_host.py::{test}[{op}-torch.{dtype}]"
        for test in tests
        if test != "test_gradients" or op in WITH_BACKWARD
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_no_kernel_races(run, op, dtype):
    run("races", *contract_of(op, dtype, "test_agreement", "test_gradients"))


@pytest.mark.parametrize("op", OPS)
def test_nothing_by_hand_races(run, op):
    """What no contract has: bad values that several threads report, classes of many segments."""
    run("races", *map(str, files_of(op)), "-k", "cuda-host and not agreement")


def test_nothing_that_all_ops_share_races(run):
    files = (*map(str, OF_EVERY_OP), "tests/ops/test_cuda_host.py")
    run("races", *files, "-k", "cuda-host and long_rows or cuda and (named or refuses or finding)")


# Loops and schedules are those of bfloat16 in float16 too.
@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("op", OPS)
def test_every_loop_goes_round(run, op, dtype):
    tests = ("test_agreement", "test_gradients", "test_every_schedule_gives_the_same_bits")
    run("small", *contract_of(op, dtype, *tests))


@pytest.mark.parametrize("op", OPS)
def test_by_hand_in_small_chunks(run, op):
    run("small", *map(str, files_of(op)), "-k", "cuda-host")


def test_what_all_ops_share_in_small_chunks(run):
    run("small", *map(str, SHARED), "-k", "cuda-host")


@pytest.mark.quick
def test_no_file_of_tests_on_every_backend_is_left_out():
    """Whoever splits a file need not know who runs it elsewhere."""
    asking = {path for path in HERE.glob("test_*.py") if tests_in(f"tests.ops.{path.stem}")}
    assert asking - {*SHARED, *(path for op in OPS for path in files_of(op))} == set()
