"""Runs the contract of every op on its Triton kernels, each op in a process of its own.

The processes are forked from one that has torch, which takes longer to import than most run.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.serving import OF_KERNELS, Server

from ..ops.backends import OPS, by_hand

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
CLASSES = {
    node.name: HERE / file
    for file in ("interpreted.py", "interpreted_tiles.py")
    for node in ast.parse((HERE / file).read_text(encoding="utf-8")).body
    if isinstance(node, ast.ClassDef) and node.name.startswith("Test")
}

BY_HAND = HERE / "interpreted_by_hand.py"

SECONDS = 590.0  # of a run: before the limit of a test
WITHOUT_GRADIENTS = ("TestLinearArgmax", "TestNearestCenter")  # their contract is shorter


# What the quick tier interprets of an op; --all interprets everything.
SAMPLE = "(primes or index) and (float32 or bfloat16) and not opcheck"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., tuple[int, str]]]:
    """Return what runs tests in a process whose kernels are interpreted."""
    variables = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    output = tmp_path_factory.mktemp("interpreted") / "pytest.txt"
    server = Server(ROOT, {**os.environ, **variables}, output, OF_KERNELS)

    def run(target: str, choice: str = "") -> tuple[int, str]:
        chosen = ["-k", choice] if choice else []
        code, said = server.run(["-p", "no:cacheprovider", target, *chosen], {}, SECONDS)
        assert code is not None, f"no end in {SECONDS} s: {said[-6000:]}"
        return code, said

    yield run
    server.close()


def passed(result: tuple[int, str]) -> int:
    """Return how many tests passed, or fail."""
    code, said = result
    assert code == 0, f"exit {code}\n{said[-6000:]}"
    found = re.search(r"(\d+) passed", said)
    assert found is not None
    return int(found[1])


@pytest.mark.quick
@pytest.mark.parametrize("name", CLASSES)
def test_a_sample_of_the_contract(run, name: str) -> None:
    assert passed(run(f"{CLASSES[name]}::{name}", SAMPLE)) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_contract(run, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(f"{CLASSES[name]}::{name}")
    assert passed(result) >= (49 if name in WITHOUT_GRADIENTS else 60)
    with capsys.disabled():
        print(f"\n{name}: {result[1].splitlines()[-1]}", end=" ")


@pytest.mark.slow
@pytest.mark.parametrize("name", by_hand(OPS))
def test_by_hand(run, name: str) -> None:
    passed(run(f"{BY_HAND}::{name}"))


@pytest.mark.slow
def test_small_sizes(run) -> None:
    assert passed(run(str(HERE / "interpreted_small.py"))) >= 2 * len(OPS)


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("interpreter_repairs.py", marks=pytest.mark.quick),
        pytest.param("interpreted_races.py", marks=pytest.mark.quick),
        "interpreted_far_rows.py",
        "interpreted.py::test_triangle_of_tiles",
        "interpreted.py::test_bands_of_blocks",
    ],
)
def test_what_they_stand_on(run, target: str) -> None:
    passed(run(str(HERE / target)))


def test_a_crash_is_one_failure(run, tmp_path: Path) -> None:
    crash = tmp_path / "test_crash.py"
    crash.write_text("import os\n\ndef test_crash():\n    os.abort()\n")
    assert run(str(crash))[0] < 0
