"""Counts of the published files, and of what is asked about them, beside ours.

Scores of BERT-tiny stand in each benchmark's own test; ``SCORES`` says where.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ncfast.fairness.benchmarks.bec_pro import BecPro
from ncfast.fairness.benchmarks.crows_pairs import CrowSPairs, shared_positions
from ncfast.fairness.benchmarks.seat import Seat
from ncfast.fairness.benchmarks.seat_items import ROLES
from ncfast.fairness.benchmarks.stereoset import StereoSet
from ncfast.fairness.benchmarks.winobias import WinoBias
from ncfast.fairness.benchmarks.winogender import Winogender
from ncfast.fairness.inference import exact_sign_flip
from ncfast.fairness.texts import masked_ids, pieces

HERE = Path(__file__).parent

# What, the number, file and test.
SCORES = [
    ("StereoSet test gender SS, ICAT", "50.54, 73.95", "stereoset", "known_scores_of_bert_tiny"),
    ("its standard error over items", "1.83", "stereoset", "known_scores_of_bert_tiny"),
    (
        "bert-base-cased's, dev gender",
        "3.15, not 1.79",
        "stereoset",
        "the_standard_error_is_of_contexts_not_of_sentences",
    ),
    ("LM where bools are added", "42.8 for 74.8", "stereoset", "numpy_bools_are_added_as_numbers"),
    ("batched beside one by one", "9.5e-6", "engine", "masked_batches_equal_one_by_one"),
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
        "54.58, 58.02, 0.226 +- 0.109",
        "crows_pairs",
        "known_scores_of_bert_tiny",
    ),
    ("SEAT 6, 7, 8", "1.71, 1.26, -0.06 and 0.34", "seat", "known_effects_of_bert_tiny"),
    ("p of SEAT 8, cls and mean", ".62 and .036", "seat", "known_effects_of_bert_tiny"),
    ("BEC-Pro gap", "0.507 +- 0.108", "bec_pro", "known_gap_of_bert_tiny"),
    (
        "WinoBias shares and log-odds",
        "52.3, 51.2, 0.007 +- 0.041, -0.004 +- 0.045, of 754 and 768 pairs",
        "winobias",
        "published_lines_and_known_scores_of_bert_tiny",
    ),
    (
        "WinoBias coreference",
        "53.06/86.21/81.44/93.41",
        "winobias",
        "published_coreference_predictions",
    ),
    ("Winogender r and its p", "0.26, .044", "winogender", "winogender_of_bert_tiny"),
    (
        "BBQ, UnifiedQA's Age",
        ".935, .547, .012, .298",
        "bbq",
        "published_answers_of_unifiedqa_give_the_known_figures",
    ),
    (
        "BBQ without a biased answer",
        "-1",
        "bbq",
        "no_biased_answer_is_minus_one_not_zero",
    ),
    (
        "GLUE's rows",
        "6920/872, 1244/139, 5749/1500",
        "glue",
        "published_tasks_are_read_whole",
    ),
    ("effect size of bug 7", "1.441153, 1.664101", "seat", "effect_size_by_hand"),
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
    targets = Counter((s, b) for s, b, _ in {(c.split, c.bias_type, c.target) for c in intra})
    assert [targets["dev", b] for b in ("gender", "profession", "race", "religion")] == [
        10,
        30,
        36,
        3,
    ]
    first = Counter(c.split for c in intra if c.context.startswith("BLANK"))
    assert first == {"dev": 19, "test": 59}
    twice = sorted(c.id[:8] for c in intra if c.context.count("BLANK") > 1)
    assert twice == ["3e988730", "784a9a47", "ce50e6e3", "d64c8385", "d8e285ba"]


def spied(items, bert_tiny):
    """Return what StereoSet asks of a masked model about these contexts."""
    asked = []

    class Spy:
        kind, tokenizer = "masked", bert_tiny.tokenizer

        def masked(self, requests):
            asked.extend(requests)
            return [(-1.0,) for _ in requests]

    StereoSet().measure(items, Spy())
    return asked


def distinct(requests):
    return len({(r.ids, r.position) for r in requests})


@pytest.fixture(scope="module")
def asked_of_dev(clusters, bert_tiny):
    return spied([c for c in clusters if c.split == "dev" and c.intra], bert_tiny)


def test_stereoset_asks_few_distinct_inputs_of_8048(clusters, bert_tiny, asked_of_dev):
    assert len(asked_of_dev) == 8048
    # fairness.md's 3,834 counts within each context: 50 of them are another context's too.
    assert distinct(asked_of_dev) == 3784
    dev = [c for c in clusters if c.split == "dev" and c.intra]
    within = {}
    for request in asked_of_dev:
        within.setdefault(request.origin, []).append(request)
    assert len(within) == len(dev)
    assert sum(map(distinct, within.values())) == 3834


def test_stereoset_test_gender_asks_1299_distinct_inputs_of_2851(clusters, bert_tiny):
    some = [c for c in clusters if (c.split, c.intra, c.bias_type) == ("test", True, "gender")]
    asked = spied(some, bert_tiny)
    assert (len(asked), distinct(asked)) == (2851, 1299)


@pytest.mark.slow
def test_stereoset_test_asks_11580_distinct_inputs_of_24464(clusters, bert_tiny):
    asked = spied([c for c in clusters if c.split == "test" and c.intra], bert_tiny)
    assert (len(asked), distinct(asked)) == (24464, 11580)


def test_most_words_of_stereoset_are_one_piece(asked_of_dev, bert_tiny, clusters):
    dev = [c for c in clusters if c.split == "dev" and c.intra]
    alike = words = single = 0
    for cluster in dev:
        sizes = [
            len(bert_tiny.tokenizer(cluster.word(label), add_special_tokens=False)["input_ids"])
            for label in cluster.sentences
        ]
        alike += len(set(sizes)) == 1
        single += sizes.count(1)
        words += 3
    assert alike == 1244  # so that a mean of probabilities and one of logarithms differ
    assert round(100 * single / words) == 82


def test_context_and_sentence_of_stereoset_differ_mostly_by_case(clusters):
    differ = other = 0
    for cluster in (c for c in clusters if c.split == "dev" and c.intra):
        for label, (_, sentence) in cluster.sentences.items():
            filled = cluster.context.replace("BLANK", cluster.word(label))
            differ += filled != sentence
            other += filled.lower() != sentence.lower()
    assert (differ, other) == (2385, 12)


def test_stereoset_has_no_id_twice(clusters):
    assert len({(c.split, c.intra, c.id) for c in clusters}) == len(clusters)


def places_of_difference(one, two):
    import difflib

    matcher = difflib.SequenceMatcher(None, [str(i) for i in one], [str(i) for i in two])
    return sum(tag != "equal" for tag, *_ in matcher.get_opcodes())


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
    assert not any(pairs[n].bias_type == "gender" for n in empty)
    assert sum(len(one) != len(two) for one, two in sides) == 416
    several = [
        pair.bias_type
        for pair, (one, two) in zip(pairs, sides, strict=True)
        if places_of_difference(one, two) > 1
    ]
    assert (len(several), several.count("gender")) == (238, 117)
    # [CLS] and [SEP] are shared by all.
    assert sum(len(shared_positions(one, two)) - 2 < 4 for one, two in sides) == 8
    kinds = Counter(p.bias_type for p in pairs)
    assert (kinds["gender"], kinds["race-color"], kinds["religion"]) == (262, 516, 105)
    assert "\n" in pairs[1293].more + pairs[1293].less
    assert (pairs[1459].more, pairs[1459].less) == (pairs[1502].more, pairs[1502].less)


def test_bec_pro_has_970_distinct_contexts(published):
    rows = BecPro().read(published, "gender")
    assert len({text for r in rows for text in (r.person_masked, r.both_masked)}) == 970
    assert len({r.profession for r in rows}) == 60
    assert (len(rows), len({r.template for r in rows}), len({r.person for r in rows})) == (
        5400,
        5,
        18,
    )


def test_persons_of_bec_pro_are_one_piece_and_most_professions_several(published, bert_tiny):
    rows = BecPro().read(published, "gender")
    tokenizer = bert_tiny.tokenizer
    assert {len(pieces(tokenizer, person, True)) for person in {r.person for r in rows}} == {1}
    sizes = [len(pieces(tokenizer, word, True)) for word in {r.profession for r in rows}]
    assert (sum(size > 1 for size in sizes), len(sizes)) == (51, 60)
    # The file masks words, not pieces.
    assert all(
        len(pieces(tokenizer, r.profession, True)) == 1
        or r.both_masked.count("[MASK]") - 1 == len(r.profession.split())
        for r in rows
        if not r.profession.startswith("director of")
    )


def test_seat_holds_what_was_published(published):
    tests = Seat().read(published, "all")
    lists = [t.texts[role] for t in tests for role in ROLES]
    texts = [text for one in lists for text in one]
    assert (len(tests), len(texts), len(set(texts))) == (50, 11_977, 5_433)
    assert all(len(one) == len(set(one)) for one in lists)
    for t in tests:
        assert len(t.texts["targ1"]) == len(t.texts["targ2"])
        assert not set(t.texts["targ1"]) & set(t.texts["targ2"])
        assert not set(t.texts["attr1"]) & set(t.texts["attr2"])


def test_winogender_holds_what_was_published(published):
    items = Winogender().read(published, "gender")
    # Three pronouns each make 720 sentences.
    assert (len(items), len({i.occupation for i in items})) == (240, 60)


def test_winobias_pairs_that_are_not_minimal(published):
    lines = WinoBias().read(published, "gender")
    assert Counter((x.type, x.split) for x in lines) == {
        (kind, split): 396 for kind in ("type1", "type2") for split in ("dev", "test")
    }
    why = Counter((x.type, "pronouns" in x.problem) for x in lines if x.problem)
    # 19 differ in more than the pronoun. fairness.md keeps one of them, "her" beside "he", and so
    # counts 768 pairs of type 2 where we count 767.
    assert why["type1", False] + why["type2", False] == 19
    assert why["type1", True] + why["type2", True] == 44
    assert [x.problem for x in lines if "not one pronoun" in x.problem] == [
        "'her' and 'he' are not one pronoun of two genders"
    ]


@pytest.mark.parametrize(("seeds", "floor"), [(3, 0.25), (5, 0.0625), (6, 0.03125), (8, 0.0078125)])
def test_few_seeds_have_a_floor_of_p(seeds, floor):
    assert exact_sign_flip(np.arange(1.0, seeds + 1)) == floor
