"""Bias-in-Bios by hand."""

from __future__ import annotations

import math

import pytest

from ncfast.fairness.benchmarks import make


def test_bias_in_bios_by_hand(tmp_path, values):
    path = tmp_path / "bios.csv"
    rows = ["nurse,nurse,F", "nurse,nurse,F", "nurse,cook,M", "nurse,nurse,M"]
    rows += ["cook,cook,M", "cook,cook,F", "poet,poet,F"]
    path.write_text("label,prediction,gender\n" + "\n".join(rows) + "\n")
    benchmark = make("bias-in-bios")
    found = values(benchmark, benchmark.read_predictions(path, None))
    assert found["overall", "accuracy_female"] == 100
    assert found["overall", "accuracy_male"] == pytest.approx(200 / 3)
    assert found["overall", "accuracy_gap"] == pytest.approx(-100 / 3)
    assert found["overall", "tpr_rms"] == pytest.approx(math.sqrt(0.25 / 2))  # nurse .5, cook 0
    assert found["overall", "mean_absolute_gap"] == pytest.approx(0.25)
