"""The benchmark of fine-tuning: its loops train alike, its limits hold, its rows can be read."""

from __future__ import annotations

import csv
import sys
from dataclasses import asdict, fields, replace

import pytest
import torch

from benchmarks import training
from benchmarks.training_loops import ROWS

FREE = training.Run(
    "transformers", None, 2, 3.0, 1000, None, 10.0, 20.0, None, None, None, 1.0, "", "today"
)
OWN = replace(FREE, loop="ncfast", hard_limit=550, peak=500, predicted=525, seconds=11.0)
DEAD = replace(FREE, hard_limit=550, steps=0, loss=None, peak=None, died="no memory")


def test_rows_are_stored_and_compared(tmp_path):
    runs = [FREE, OWN, DEAD]
    with open(tmp_path / "rows.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(training.Run)])
        writer.writeheader()
        writer.writerows(asdict(run) for run in runs)
    assert training.stored(tmp_path / "rows.csv") == runs
    text = training.render("title", runs)
    assert "| transformers | 0 | no memory |" in text
    for part in ("peak 0.50x", "time 1.10x by the clock, 1.00x", "predicted peak +5.0%"):
        assert part in text


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_loops_train_alike_within_their_limits(tiny_model, tmp_path):
    folder = tiny_model("causal")
    rows = torch.randint(5, 60, (2, 4, 32), generator=torch.Generator().manual_seed(0))
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save(rows, tmp_path / ROWS)
    theirs = training.take("transformers", tmp_path, 1, None, None)
    ours = training.take("ncfast", tmp_path, 1, 1 << 30, 1 << 30)
    dead = training.take("transformers", tmp_path, 1, None, 1 << 10)
    assert (theirs.died, ours.died, theirs.steps, ours.steps) == ("", "", 2, 2)
    assert ours.loss == pytest.approx(theirs.loss, abs=0.1)  # dropout draws differ
    assert ours.predicted > 0
    assert ours.peak > 0
    assert (dead.steps, dead.peak) == (0, None)
    assert "memory" in dead.died.lower()
