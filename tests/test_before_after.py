"""The table of times before and after: what is noise, what is slower, and two trees by turns."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.before_after import Row, main, render

ROOT = Path(__file__).resolve().parent.parent


def row(before, after, torch=((1.0,), (1.0,))):
    return Row("op", 2, {"cpu": before, "torch": torch[0]}, {"cpu": after, "torch": torch[1]})


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (row([1.0, 1.0], [1.01, 1.01]), "as before"),
        (row([1.0, 1.0], [1.1, 1.1]), "SLOWER"),
        (row([1.0, 1.0], [0.9, 0.9]), "faster"),
        (row([1.0, 1.0], [1.1, 1.1], torch=((1.0,), (1.2,))), "as before"),  # so is plain torch
        (row([1.0, 1.0, 1.0], [1.0, 1.1, 1.1]), "as before"),  # the least time is not
        (row([0.8, 1.0, 1.0, 1.3], [0.9, 1.1, 1.1, 1.4]), "as before"),  # within its quartiles
        (Row("op", 2, {}, {"cpu": [1.0]}), "new"),
    ],
)
def test_slower_is_what_noise_does_not_explain(found, verdict):
    assert found.verdict == verdict
    text = render([found], "head", (0.2, 0.1))
    assert f"| {verdict} |" in text
    assert f"Slower: {'op' if verdict == 'SLOWER' else 'none'}." in text


@pytest.mark.slow
def test_two_trees_are_asked_by_turns(tmp_path):
    out = tmp_path / "table.md"
    main([str(ROOT), "--quick", "--only", "alignment", "--seconds", "0.05", "--out", str(out)])
    text = out.read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("| alignment")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert all(cells)
    assert float(cells[2].split()[0]) > 0
