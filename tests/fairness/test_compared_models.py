"""Models that are compared: on the items that both scored."""

from __future__ import annotations

import json
import shutil

import jsonschema
import pytest

from ncfast.fairness import Settings
from ncfast.fairness.schema import evaluation_schema
from tests.fairness.conftest import run


def test_two_models_are_paired(tiny_model, other, data, tmp_path, capsys):
    out = tmp_path / "out"
    words = (tiny_model("masked"), other, "--on", "crows-pairs", "--data", data, "--out", out)
    assert run(*words, "--attribute", "all", "--uniform", "--noise-control", "2") == 0
    document = json.loads((out / "evaluation.json").read_text())
    schema = jsonschema.Draft202012Validator(evaluation_schema())
    schema.validate(document)
    assert not schema.is_valid(document | {"scores": [{**document["scores"][0], "n": "many"}]})
    rows = [row for row in document["differences"] if row["metric"] == "log_ratio"]
    assert {row["second"] for row in rows} == {
        "other",
        "tiny-masked+noise-1",
        "tiny-masked+noise-2",
    }
    assert all(row["value"] is not None and row["p_value"] is not None for row in rows)
    ties = [r for r in document["scores"] if (r["model"], r["metric"]) == ("uniform", "ties")]
    assert {row["subset"]: row["value"] for row in ties} == {
        "gender": 3,
        "religion": 1,
        "overall": 4,
    }
    alike = [r for r in document["scores"] if r["model"] == "uniform" and r["low"] is not None]
    assert all(row["low"] == row["value"] == row["high"] for row in alike)  # ties are no chance
    assert alike
    assert "Paired differences" in capsys.readouterr().out


def test_the_same_weights_under_two_names_are_rejected(tiny_model, data, tmp_path, capsys):
    copy = tmp_path / "debiased"
    shutil.copytree(tiny_model("masked"), copy)
    assert run(tiny_model("masked"), copy, "--on", "crows-pairs", "--data", data) == 2
    assert "same weights under two names" in capsys.readouterr().err


def test_models_are_compared_on_the_items_that_both_scored():
    from ncfast.fairness.benchmarks import make
    from ncfast.fairness.evaluation import build_evaluation
    from ncfast.fairness.records import Record
    from ncfast.fairness.selection import Chosen, Selection

    def records(ratios, excluded):
        return [
            Record(
                str(n),
                "difference",
                ("gender",),
                str(n),
                {} if n == excluded else {"more": r, "less": 0.0},
                labels={"direction": "stereo"},
                excluded="a side has no differing piece" if n == excluded else "",
            )
            for n, r in enumerate(ratios)
        ]

    found = {
        ("a", "crows-pairs"): records([1.0, 2.0, 3.0, 100.0], 1),
        ("b", "crows-pairs"): records([2.0, 100.0, 5.0, 0.0], 3),
    }
    selection = Selection({"crows-pairs": Chosen(make("crows-pairs"), [])}, by_name=frozenset())
    about = [{"name": "a"}, {"name": "b"}]
    document = build_evaluation(found, about, selection, Settings(("crows-pairs",))).document
    (row,) = (r for r in document["differences"] if r["metric"] == "log_ratio")
    assert row["value"] == pytest.approx(((2 - 1) + (5 - 3)) / 2)
    assert row["note"] == "of the 2 items that both models scored"
    assert row["low"] is not None


def test_professions_are_compared_over_the_sentences_that_both_scored():
    from ncfast.fairness.benchmarks import make
    from ncfast.fairness.evaluation import build_evaluation
    from ncfast.fairness.records import Record
    from ncfast.fairness.selection import Chosen, Selection

    people = (("she", "female"), ("wife", "female"), ("he", "male"))

    def records(values):
        return [
            Record(
                f"{job}/{who}",
                "rebuilt",
                ("female", "overall"),
                job,
                {} if value is None else {"association": value},
                labels={"gender": gender, "group": "female", "person": who},
                excluded="2 pieces" if value is None else "",
            )
            for job in ("nurse", "maid")
            for (who, gender), value in zip(people, values, strict=True)
        ]

    def differences(one, two):
        found = {("a", "bec-pro"): records(one), ("b", "bec-pro"): records(two)}
        selection = Selection({"bec-pro": Chosen(make("bec-pro"), [])}, by_name=frozenset())
        about = [{"name": "a"}, {"name": "b"}]
        document = build_evaluation(found, about, selection, Settings(("bec-pro",))).document
        return [r for r in document["differences"] if r["metric"] == "female_words"]

    for row in differences([1.0, 3.0, 0.0], [1.0, None, 0.0]):
        assert (row["value"], row["note"]) == (0, "of the 2 items that both models scored")
    for row in differences([None, 3.0, 0.0], [1.0, None, 0.0]):  # no woman that both were asked
        assert (row["value"], row["note"]) == (None, "no items of both models")
    assert {row["note"] for row in differences([1.0, 3.0, 0.0], [2.0, 3.0, 0.0])} == {""}


def test_a_subset_that_is_excluded_whole_is_said():
    from ncfast.fairness.evaluation import left_out
    from ncfast.fairness.records import Record

    kept = Record("1", "log", ("dev.gender",), "t", {"x": 1.0})
    why = "a masked-LM head has no next-sentence score"
    lost = [
        Record(f"i{n}", v, ("dev.gender.inter",), "t", excluded=why)
        for n in range(2)
        for v in ("log", "arithmetic")
    ]
    assert left_out({("m", "stereoset"): [kept, *lost]}) == [
        {"benchmark": "stereoset", "model": "m", "reason": f"dev.gender.inter: {why}"}
    ]
