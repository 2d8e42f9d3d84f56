"""Runs the contract of every op on its Triton kernels, each op in a process of its own."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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

WITHOUT_GRADIENTS = ("TestLinearArgmax", "TestNearestCenter")  # their contract is shorter


# What the quick tier interprets of an op; --all interprets everything.
SAMPLE = "(primes or index) and (float32 or bfloat16) and not opcheck"


def run(target: str, choice: str = "") -> subprocess.CompletedProcess[str]:
    """Run tests in a process whose kernels are interpreted."""
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONFAULTHANDLER": "1",
    }
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", target]
    command += ["-k", choice] if choice else []
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def passed(result: subprocess.CompletedProcess[str]) -> int:
    """Return how many tests passed, or fail."""
    assert result.returncode == 0, f"exit {result.returncode}\n{result.stdout[-6000:]}"
    found = re.search(r"(\d+) passed", result.stdout)
    assert found is not None
    return int(found[1])


@pytest.mark.quick
@pytest.mark.parametrize("name", CLASSES)
def test_a_sample_of_the_contract(name: str) -> None:
    assert passed(run(f"{CLASSES[name]}::{name}", SAMPLE)) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_contract(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(f"{CLASSES[name]}::{name}")
    assert passed(result) >= (49 if name in WITHOUT_GRADIENTS else 60)
    with capsys.disabled():
        print(f"\n{name}: {result.stdout.splitlines()[-1]}", end=" ")


@pytest.mark.slow
@pytest.mark.parametrize("name", by_hand(OPS))
def test_by_hand(name: str) -> None:
    passed(run(f"{BY_HAND}::{name}"))


@pytest.mark.slow
def test_small_sizes() -> None:
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
def test_what_they_stand_on(target: str) -> None:
    result = run(str(HERE / target))
    assert result.returncode == 0, result.stdout[-6000:]


def test_a_crash_is_one_failure(tmp_path: Path) -> None:
    crash = tmp_path / "test_crash.py"
    crash.write_text("import os\n\ndef test_crash():\n    os.abort()\n")
    assert run(str(crash)).returncode < 0
