"""Counts of the published files, and of what is asked about them, beside ours.

Scores of BERT-tiny stand in each benchmark's own test; ``SCORES`` says where.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from ncfast.fairness.benchmarks.bec_pro import BecPro
from ncfast.fairness.benchmarks.crows_pairs import CrowSPairs, shared_positions
from ncfast.fairness.benchmarks.stereoset import StereoSet
from ncfast.fairness.texts import masked_ids

HERE = Path(__file__).parent

# What, the number, file and test.
SCORES = [
    ("StereoSet test gender SS, ICAT", "50.54, 73.95", "stereoset", "known_scores_of_bert_tiny"),
    (
        "StereoSet dev LM/SS/ICAT, both variants",
        "75.81/56.26/66.32, 78.28/56.04/68.83",
        "stereoset",
        "known_scores_of_bert_tiny_over_all_of_dev",
    ),
    (
        "StereoSet, bert-base-cased's files",
        "30 scores to 4 decimals",
        "stereoset",
        "published_predictions_give_the_published_scores",
    ),
    (
        "CrowS original, difference, log-ratio",
        "54.58, 58.02, 0.226",
        "crows_pairs",
        "known_scores_of_bert_tiny",
    ),
    ("SEAT 6, 7, 8", "1.71, 1.26, -0.06 and 0.34", "seat", "known_effects_of_bert_tiny"),
    ("BEC-Pro gap", "0.507 +- 0.108", "bec_pro", "known_gap_of_bert_tiny"),
    (
        "WinoBias shares and log-odds",
        "52.3, 51.2, 0.007, -0.004",
        "winobias",
        "published_lines_and_known_scores_of_bert_tiny",
    ),
    (
        "WinoBias coreference",
        "53.06/86.21/81.44/93.41",
        "winobias",
        "published_coreference_predictions",
    ),
    ("Winogender r", "0.26", "other_benchmarks", "winogender_of_bert_tiny"),
    ("effect size of bug 7", "1.441153", "seat", "effect_size_by_hand"),
    ("BEC-Pro's wrong masks", "5 and 18 rows", "bec_pro", "masks_are_rebuilt_as_whole_words"),
]


@pytest.mark.parametrize(("what", "number", "file", "name"), SCORES)
def test_a_known_number_has_its_test(what, number, file, name):
    tree = ast.parse((HERE / f"test_{file}.py").read_text())
    assert f"test_{name}" in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, what


@pytest.fixture(scope="module")
def clusters(published):
    return StereoSet().read(published, "all")


def test_stereoset_holds_what_was_published(clusters):
    found = Counter((c.split, c.intra) for c in clusters)
    assert found == {
        ("dev", True): 2106,
        ("dev", False): 2123,
        ("test", True): 6392,
        ("test", False): 6374,
    }
    intra = [c for c in clusters if c.intra]
    by_bias = Counter((c.split, c.bias_type) for c in intra)
    assert [by_bias["dev", b] for b in ("gender", "profession", "race", "religion")] == [
        255,
        810,
        962,
        79,
    ]
    assert [by_bias["test", b] for b in ("gender", "profession", "race", "religion")] == [
        771,
        2398,
        2976,
        247,
    ]
    terms = Counter((s, b) for s, b, _ in {(c.split, c.bias_type, c.target) for c in intra})
    assert [terms["dev", b] for b in ("gender", "profession", "race", "religion")] == [
        10,
        30,
        36,
        3,
    ]
    first = Counter(c.split for c in intra if c.context.startswith("BLANK"))
    assert first == {"dev": 19, "test": 59}
    twice = sorted(c.id[:8] for c in intra if c.context.count("BLANK") > 1)
    assert twice == ["3e988730", "784a9a47", "ce50e6e3", "d64c8385", "d8e285ba"]


def test_stereoset_asks_few_distinct_inputs_of_8048(clusters, bert_tiny):
    asked = []

    class Spy:
        kind, tokenizer = "masked", bert_tiny.tokenizer

        def masked(self, requests):
            asked.extend(requests)
            return [(-1.0,) for _ in requests]

    dev = [c for c in clusters if c.split == "dev" and c.intra]
    StereoSet().measure(dev, Spy())
    assert len(asked) == 8048
    # A throw-away count gave 3,834; what it told apart that has the same tokens is not known.
    assert len({(r.ids, r.position) for r in asked}) == 3784


def test_crows_pairs_differ_where_counted(published, bert_tiny):
    pairs = CrowSPairs().read(published, "all")
    sides = [
        (masked_ids(bert_tiny.tokenizer, p.more), masked_ids(bert_tiny.tokenizer, p.less))
        for p in pairs
    ]
    empty = [
        n
        for n, (one, two) in enumerate(sides)
        if len(shared_positions(one, two)) in (len(one), len(two))
    ]
    assert empty == [129, 231, 1101]
    assert sum(len(one) != len(two) for one, two in sides) == 416
    assert "\n" in pairs[1293].more + pairs[1293].less
    assert (pairs[1459].more, pairs[1459].less) == (pairs[1502].more, pairs[1502].less)


def test_bec_pro_has_970_distinct_contexts(published):
    rows = BecPro().read(published, "gender")
    assert len({text for r in rows for text in (r.person_masked, r.both_masked)}) == 970
    assert len({r.profession for r in rows}) == 60
