"""What counts the rounds of loops says which went round too seldom or never ended raggedly."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("triton")

from .small_sizes import Rounds, loops, modules

LOOPS = """
def whole(n):
    for i in range(0, n, 4):
        pass


def counted(n):
    for i in range(n):
        pass


def rows(n):
    row = next_row(-1)
    while row < n:
        row = next_row(row)
"""


@pytest.fixture
def counting(tmp_path) -> tuple[ModuleType, Rounds]:
    """Return a module of three loops, and what counts them."""
    path = tmp_path / "some.py"
    path.write_text(LOOPS, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("package.some", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rounds = Rounds(loops([path]))
    module.range = rounds.count
    module.next_row = rounds.follow(lambda row: row + 1)
    return module, rounds


def test_loops_that_were_not_run(counting):
    _, rounds = counting
    assert rounds.lacking() == [
        "some.py:3: range(0, n, 4) went round 0 times; expected at least 3",
        "some.py:3: range(0, n, 4) never had a ragged end",
        "some.py:8: range(n) went round 0 times; expected at least 3",
        "some.py:14: row < n went round 0 times; expected at least 3",
    ]


def test_two_rounds_are_too_few(counting):
    module, rounds = counting
    module.whole(7)
    module.counted(2)
    module.rows(2)
    module.rows(2)  # rounds of one loop are not added to those of the next
    assert [text.partition(": ")[2] for text in rounds.lacking()] == [
        "range(0, n, 4) went round 2 times; expected at least 3",
        "range(n) went round 2 times; expected at least 3",
        "row < n went round 2 times; expected at least 3",
    ]


def test_a_whole_end_is_no_ragged_one(counting):
    module, rounds = counting
    for run in (module.whole, module.counted, module.rows):
        run(12)
    assert rounds.lacking() == ["some.py:3: range(0, n, 4) never had a ragged end"]
    module.whole(3)  # one tile, and that not full
    assert rounds.lacking()
    module.whole(5)
    assert not rounds.lacking()


def test_the_loops_of_kernels_are_found():
    found = loops(Path(str(module.__file__)) for module in modules())
    assert len(found) >= 35
    assert {loop.text for place, loop in found.items() if place[0] == "pair_weights"} >= {
        "r < SIDE"
    }
