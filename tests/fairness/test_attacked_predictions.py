"""Predictions that are dirty, incomplete or of something else: one sentence, no wrong number."""

from __future__ import annotations

import json

import pytest

from ncfast.fairness import EvaluationError
from ncfast.fairness.benchmarks import make
from tests.fairness.conftest import run
from tests.fairness.test_names_of_files import (
    bbq,
    bias_in_bios,
    bias_nli,
    stereoset,
    winobias,
)

# Benchmark, who writes good predictions, what is done to them, what is said.
PREDICTIONS = [
    ("stereoset", stereoset, ('"score": -1.0', '"score": "-1"'), "score: a str; expected int or"),
    ("stereoset", stereoset, ('"score": -1.0', '"score": true'), "score: a bool; expected int or"),
    ("stereoset", stereoset, ('"score": -1.0', '"score": NaN'), "score: nan; expected a finite"),
    ("stereoset", stereoset, ('"score": -1.0', '"score": 1' + 400 * "0"), "expected a finite"),
    ("stereoset", stereoset, ('"id": "intra0st', '"id": "lost'), "intra0stereotype, field score"),
    ("winobias", winobias, ("[[1, 2], [8, 8]]", "[5]"), "[5]; expected a list of [start, end]"),
    ("winobias", winobias, ("[[1, 2], [8, 8]]", "[[1, 2.5]]"), "expected a list of [start, end]"),
    ("winobias", winobias, ("[[1, 2], [8, 8]]", '[[1, "2"]]'), "expected a list of [start, end]"),
    ("winobias", winobias, ('"d1"', '"d0"'), "field doc_key: 'm-type1_pro/d0' a second time"),
    ("winobias", winobias, ('"m-type1_pro": [', '"m-type1_pro": 5, "k-type2_pro": ['), "a int"),
    ("winobias", winobias, ('{"m-type1', '{"k-type2_pro": [], "m-type1'), "a second one of type2"),
    ("bbq", bbq, ("{", "5\n{"), "expected a question per line"),
    ("bbq", bbq, ('"ans0": ["a", "F"]', '"ans0": null'), "field ans0: a NoneType; expected list"),
    ("bbq", bbq, ('"label": 2', '"label": true'), "field label: True; expected 0, 1 or 2"),
    ("bbq", bbq, ('"example_id": 0, ', ""), "row 1, field example_id: missing; expected int or"),
    ("bbq", bbq, ('"she"}', '"she", "b_pred_race": "he"}'), "expected one field of answers"),
    ("bias-nli", bias_nli, ("0.1,0.8", "0.1,nan"), "field neutral: 'nan'; expected a number from"),
    ("bias-nli", bias_nli, ("0.1,0.8", "0.1,"), "field neutral: empty; expected text"),
    ("bias-nli", bias_nli, ("entail", "x"), "entailment: missing; expected all three, or neutral"),
    ("bias-in-bios", bias_in_bios, ("label,", "labels,"), "field label: missing; expected str"),
    ("bias-in-bios", bias_in_bios, (",F", ",x"), "field gender: 'x'; expected F or M"),
]


@pytest.mark.parametrize(("name", "write", "change", "said"), PREDICTIONS)
def test_dirty_predictions_are_named(tmp_path, capsys, name, write, change, said):
    path = write(tmp_path)
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change, 1))
    assert run("--on", name, "--predictions", path, "--data", tmp_path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("5", "the row is a int; expected a table"),
        ('{"neutral": true}', "field neutral: a bool; expected float or int"),
        (f'{{"neutral": 1{400 * "0"}}}', "expected a number from 0 to 1"),
        ('{"entailment": 0.2}', "field neutral: missing; expected float or int"),
    ],
)
def test_dirty_lines_of_json_are_named(tmp_path, line, said):
    path = tmp_path / "nli.jsonl"
    path.write_text(line)
    with pytest.raises(EvaluationError, match=said):
        make("bias-nli").read_predictions(path, None)


def scores(benchmark, path, folder):
    out = folder / "out"
    assert run("--on", benchmark, "--predictions", path, "--data", folder, "--out", out) == 0
    return json.loads((out / "evaluation.json").read_text())


def test_spaces_around_an_occupation_are_no_part_of_it(tmp_path):
    path = bias_in_bios(tmp_path)
    rows = scores("bias-in-bios", path, tmp_path)["scores"]
    path.write_text(path.read_text().replace("nurse,nurse", "nurse , nurse"))
    assert scores("bias-in-bios", path, tmp_path)["scores"] == rows


def test_predictions_in_other_words_than_labels_are_rejected(tmp_path, capsys):
    path = bias_in_bios(tmp_path)
    path.write_text("label,prediction,gender\nnurse,13,F\ncook,7,M\n")
    assert run("--on", "bias-in-bios", "--predictions", path) == 2
    assert "no prediction is any of the labels (such as '13' and 'cook')" in capsys.readouterr().err


def test_predictions_of_sentences_that_are_not_there_are_rejected(tmp_path, capsys):
    path = stereoset(tmp_path)
    document = json.loads(path.read_text())
    document["intrasentence"].append({"id": "of the test split", "score": 1.0})
    path.write_text(json.dumps(document))
    assert run("--on", "stereoset", "--predictions", path, "--data", tmp_path) == 2
    assert "1 of its 25 ids are of no sentence" in capsys.readouterr().err


def test_contexts_without_predictions_are_counted(tmp_path):
    path = stereoset(tmp_path)
    document = json.loads(path.read_text())
    document["intersentence"] = []
    del document["intrasentence"][:3]
    path.write_text(json.dumps(document))
    found = scores("stereoset", path, tmp_path)
    assert found["settings"]["attribute"] == "all"
    assert {row["subset"] for row in found["scores"]} == {"dev.gender"}
    assert all("1 items excluded" in row["note"] for row in found["scores"])


def test_predictions_that_are_all_excluded_are_said(tmp_path):
    path = bbq(tmp_path)
    path.write_text(
        path.read_text().replace('"unifiedqa-t5-11b_pred_race": "she"', '"x_pred": "?"')
    )
    found = scores("bbq", path, tmp_path)
    assert found["scores"] == []
    assert "none of the answers" in found["skipped"][0]["reason"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Age,0,1", "row 9, field target_loc: '1', and 0 in an earlier row of Age 0; expected one"),
        ("", "row Age/0, field target_loc: 2, which is the unknown answer; expected the biased"),
    ],
)
def test_targets_that_cannot_be_are_named(tmp_path, capsys, line, said):
    path, metadata = bbq(tmp_path), tmp_path / "additional_metadata.csv"
    text = metadata.read_text()
    assert text.count("Age,0,0") == 1
    metadata.write_text(f"{text}\n{line}" if line else text.replace("Age,0,0", "Age,0,2"))
    assert run("--on", "bbq", "--predictions", path, "--data", tmp_path) == 2
    assert said in capsys.readouterr().err
