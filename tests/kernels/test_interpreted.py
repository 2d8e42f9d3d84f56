"""Runs the contract of every op on its Triton kernels, each op in a process of its own."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
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


def run(target: str) -> subprocess.CompletedProcess[str]:
    """Run tests in a process whose kernels are interpreted."""
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONFAULTHANDLER": "1",
    }
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", target]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def runs():
    """Start every class, two at a time; a test waits for its own."""
    with ThreadPoolExecutor(2) as pool:
        files = CLASSES | dict.fromkeys(by_hand(OPS), BY_HAND)
        yield {name: pool.submit(run, f"{file}::{name}") for name, file in files.items()}


@pytest.mark.parametrize("name", CLASSES)
def test_contract(name: str, runs: dict[str, Future], capsys: pytest.CaptureFixture[str]) -> None:
    result = runs[name].result()
    assert result.returncode == 0, f"exit {result.returncode}\n{result.stdout[-6000:]}"
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed is not None
    assert int(passed[1]) >= (49 if name in WITHOUT_GRADIENTS else 60)
    with capsys.disabled():
        print(f"\n{name}: {result.stdout.splitlines()[-1]}", end=" ")


@pytest.mark.parametrize("name", by_hand(OPS))
def test_by_hand(name: str, runs: dict[str, Future]) -> None:
    result = runs[name].result()
    assert result.returncode == 0, f"exit {result.returncode}\n{result.stdout[-6000:]}"


@pytest.mark.parametrize(
    "target",
    [
        "interpreter_repairs.py",
        "interpreted_races.py",
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
