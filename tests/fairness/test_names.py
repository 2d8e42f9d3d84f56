"""The fixed names of ``evaluation.json``: subsets, variants and metrics of every benchmark."""

from __future__ import annotations

import json

import pytest

from ncfast.fairness.benchmarks import BENCHMARKS, make
from ncfast.fairness.evaluation import score_row
from ncfast.fairness.inference import estimate

ICAT = {"lm", "ss", "ss_distance", "icat"}
CROWS = {"metric", "stereotype", "antistereotype", "ties", "log_ratio"}
WORDS = {"female_words", "male_words", "gap", "absolute_gap"}
ODDS = {"pro_share", "log_odds"}
R = {"pearson", "spearman"}

# Benchmark, kind of model: subsets, metrics by variant. Winogender's two other subsets say whom the
# pronoun is about.
NAMES = {
    ("stereoset", "masked"): (
        {"dev.gender", "test.gender"},
        {"arithmetic": ICAT, "log": ICAT},
    ),
    ("stereoset", "causal"): (
        {"dev.gender", "test.gender", "dev.gender.inter", "test.gender.inter"},
        {"arithmetic": ICAT, "log": ICAT},
    ),
    ("crows-pairs", "masked"): ({"gender"}, {"original": CROWS, "difference": CROWS}),
    ("crows-pairs", "causal"): ({"gender"}, {"sum": CROWS, "mean": CROWS, "shared": CROWS}),
    ("bec-pro", "masked"): (
        {"female", "male", "balanced", "overall"},
        {"official": WORDS, "rebuilt": WORDS},
    ),
    ("bec-pro", "causal"): ({"female", "male", "balanced", "overall"}, {"rebuilt": WORDS}),
    ("winobias", "masked"): ({"type1", "type2"}, {"pronoun": ODDS}),
    ("winobias", "causal"): ({"type1", "type2"}, {"pronoun": ODDS}),
    ("winogender", "masked"): ({"overall", "occupation", "participant"}, {"pronoun": R}),
    ("winogender", "causal"): (
        {"overall", "occupation", "participant"},
        {"pronoun": R, "question": R},
    ),
}


@pytest.mark.parametrize(("name", "kind"), NAMES)
def test_names_are_as_fixed(published, told, name, kind):
    subsets, metrics = NAMES[name, kind]
    benchmark = make(name)
    items = benchmark.read(published, "gender")
    if name != "bec-pro":  # its first rows are one group's
        items = items[:: max(1, len(items) // 120)]
    scorer = told(kind)
    if kind == "masked" and name == "stereoset":
        items = [c for c in items if c.intra]
    found = benchmark.statistics(benchmark.measure(items, scorer))
    assert {s.subset for s in found} == subsets
    # So that a text too long for a model is named by file, row and field.
    assert scorer.asked
    assert all(r.origin.file and r.origin.row and r.origin.field for r in scorer.asked)
    by_variant = {}
    for s in found:
        by_variant.setdefault(s.variant, set()).add(s.metric)
    assert by_variant == metrics
    for s in found:
        row = score_row("model", name, s, estimate(s, resamples=10))
        assert json.loads(json.dumps(row)) == row


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("sst2", {"accuracy"}),
        ("rte", {"accuracy"}),
        ("stsb", {"pearson", "spearman"}),
        ("cola", {"matthews"}),
        ("mrpc", {"accuracy", "matthews"}),
    ],
)
def test_names_of_fine_tuned_tasks(name, metrics):
    from ncfast.fairness.records import Record

    records = [
        Record(str(n), "fine-tuned", ("dev",), str(n), {"label": n % 2, "prediction": n % 3 > 0})
        for n in range(6)
    ]
    found = make(name).statistics(records)
    assert {(s.subset, s.variant) for s in found} == {("dev", "fine-tuned")}
    assert {s.metric for s in found} == metrics


@pytest.mark.parametrize(("name", "kind"), NAMES)
def test_a_reader_is_told_what_metrics_and_variants_mean(name, kind):
    words = make(name).reading
    names = set(NAMES[name, kind][1])
    for metrics in NAMES[name, kind][1].values():
        names |= metrics
    told = {"pronoun", "question", "ties", "sum", "mean", "shared", "difference", "original"}
    assert {n for n in names - told if n not in words} == set()


def test_every_benchmark_has_a_reading():
    assert all(make(name).reading for name in BENCHMARKS)


def test_every_benchmark_of_the_command_is_named():
    assert list(BENCHMARKS) == [
        *("stereoset", "crows-pairs", "seat", "bec-pro", "winobias", "winogender", "bbq"),
        *("perplexity", "sst2", "rte", "stsb", "cola", "mrpc", "bias-nli", "bias-in-bios"),
    ]
