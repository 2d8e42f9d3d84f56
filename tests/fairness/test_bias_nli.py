"""Bias-NLI by hand."""

from __future__ import annotations

import pytest

from ncfast.fairness.benchmarks import make
from ncfast.fairness.errors import EvaluationError


def test_bias_nli_by_hand(tmp_path, values):
    path = tmp_path / "nli.csv"
    path.write_text("entailment,neutral,contradiction\n0.1,0.8,0.1\n0.3,0.4,0.3\n0.4,0.3,0.3\n")
    benchmark = make("bias-nli")
    found = values(benchmark, benchmark.read_predictions(path, None))
    assert found["overall", "nn"] == pytest.approx(0.5)
    assert found["overall", "fn"] == pytest.approx(2 / 3)
    assert found["overall", "t50"] == found["overall", "t70"] == pytest.approx(1 / 3)
    path.write_text("neutral\n1.5\n")
    with pytest.raises(EvaluationError, match=r"nli\.csv, row 1, field neutral"):
        benchmark.read_predictions(path, None)
