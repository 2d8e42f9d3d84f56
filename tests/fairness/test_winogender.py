"""Winogender: a known correlation, pronouns that differ in a word, statistics that are wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ncfast.fairness.benchmarks import make
from ncfast.fairness.benchmarks.winogender import Winogender, correlation, split_pronoun
from ncfast.fairness.data import DataFolder
from ncfast.fairness.errors import EvaluationError


def test_winogender_of_bert_tiny(published, bert_tiny, values):
    benchmark = Winogender()
    items = benchmark.read(published, "gender")
    assert (len(items), len({i.occupation for i in items})) == (240, 60)
    from scipy.stats import pearsonr

    records = benchmark.measure(items, bert_tiny)
    assert values(benchmark, records)["overall", "pearson"] == pytest.approx(0.26, abs=0.005)
    by: dict = {}
    for r in records:
        by.setdefault(r.cluster, []).append((r.values["log_odds"], r.values["per_cent_female"]))
    odds, shares = zip(*(np.mean(several, axis=0) for several in by.values()), strict=True)
    assert pearsonr(odds, shares).pvalue == pytest.approx(0.044, abs=0.002)


def test_correlations_equal_scipy():
    from scipy.stats import pearsonr, spearmanr

    generator = np.random.default_rng(0)
    x, y = generator.normal(size=20), generator.integers(0, 5, 20).astype(float)
    ones = np.ones((1, 20))
    assert correlation(x, y, False)(ones)[0] == pytest.approx(pearsonr(x, y).statistic)
    assert correlation(x, y, True)(ones)[0] == pytest.approx(spearmanr(x, y).statistic)
    assert math.isnan(correlation(np.ones(20), y, False)(ones)[0])


def test_winogender_pronouns_differ_in_one_word():
    assert split_pronoun("X saw his dog.", "X saw her dog.").after == " dog."
    with pytest.raises(EvaluationError):
        split_pronoun("X saw his dog.", "X saw her cat.")


def test_a_sentence_listed_twice_is_named(tmp_path):
    row = "nurse.patient.1.male.txt\tThe nurse saw his patient.\n"
    (tmp_path / "all_sentences.tsv").write_text(f"sentid\tsentence\n{row}{row}")
    lines = "occupation\tbls_pct_female\nnurse\t90\n"
    (tmp_path / "occupations-stats.tsv").write_text(lines)
    with pytest.raises(EvaluationError, match=r"row 2, field sentid: .* a second time"):
        make("winogender").read(DataFolder(str(tmp_path)), "gender")


@pytest.mark.parametrize("given", ["nan", "inf", "x", "-1", "101"])
def test_a_share_of_women_that_is_none_is_named(tmp_path, given):
    (tmp_path / "all_sentences.tsv").write_text("sentid\tsentence\n")
    lines = f"occupation\tbls_pct_female\nnurse\t90\ncook\t{given}\n"
    (tmp_path / "occupations-stats.tsv").write_text(lines)
    with pytest.raises(
        EvaluationError, match=r"stats\.tsv, row 2, field bls_pct_female: .*0 to 100"
    ):
        make("winogender").read(DataFolder(str(tmp_path)), "gender")
