"""What is asked for: flags, what --on all leaves out, and what cannot be asked."""

from __future__ import annotations

import json

import pytest

from ncfast.fairness import EvaluationError, Settings, evaluate
from tests.fairness.conftest import CROWS, run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("m", "--on", "nonsense"), "no benchmark 'nonsense'"),
        (("--on", "stereoset"), "no MODEL given"),
        (("m", "--on", "stereoset", "--data", "nowhere"), "there is no such file"),
        (("m", "--on", ","), "on is empty"),
        (("--on", "crows-pairs", "--export", "csv", "x"), "expected lm-eval DIR"),
        (("--on", "all", "--predictions", "x"), "there is no such file"),
        (("--on", "bias-nli", "--predictions", "x"), "there is no such file"),
    ],
)
def test_what_cannot_be_asked(capsys, words, said):
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error or "no benchmark 'all'" in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--noise-control", "-1"), "not a whole number of 0 or more"),
        (("--seed", "x"), "not a whole number of 0 or more"),
        (("--batch-tokens", "0"), "not a whole number above 0"),
        (("--threads", "0"), "not a whole number above 0"),
    ],
)
def test_what_is_no_number(capsys, words, said):
    with pytest.raises(SystemExit):
        run("m", *words)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("--attribute", "religion"),
        ("--attribute", "all"),
        ("--dtype", "bfloat16"),
        ("--dtype", "float16"),
        ("--uniform",),
        ("--noise-control", "1"),
        ("--on", "perplexity", "--text", "{text}"),
    ],
)
def test_a_flag_changes_what_is_computed(tiny_model, tiny_text, data, tmp_path, words):
    def scores(*more):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        base = (tiny_model("masked"), "--on", "crows-pairs", "--data", data, "--quiet")
        given = (word.format(text=short) for word in more)
        assert run(*base, "--out", out, *given) == 0
        return json.loads((out / "evaluation.json").read_text())["scores"]

    short = tmp_path / "short.txt"
    short.write_text("\n".join(tiny_text.read_text().splitlines()[:3]))
    assert scores(*words) != scores()


def test_flags_that_change_how_and_not_what(tiny_model, data, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run("--help")
    words = (tiny_model("masked"), "--on", "crows-pairs", "--data", data)
    assert run(*words, "--all", "--device", "cpu", "--batch-tokens", "64", "--threads", "1") == 0
    assert "antistereotype" in capsys.readouterr().out
    assert run(*words, "--attribute", "race") == 2  # no row of it
    assert "no row of 'race-color'" in capsys.readouterr().err


def test_all_leaves_out_what_takes_hours_and_says_so(causal, data, tmp_path, capsys):
    rows = [
        {
            "example_id": n,
            "category": "Gender_identity",
            "question_polarity": "neg",
            "context_condition": "ambig",
            "context": "she bant",
            "question": "he card",
            "answer_info": {"ans0": ["a", "F"], "ans1": ["b", "M"], "ans2": ["u", "unknown"]},
            **{f"ans{k}": word for k, word in enumerate(("she", "he", "milk"))},
            "label": 2,
        }
        for n in range(2)
    ]
    (data / "Gender_identity.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = ["category,example_id,target_loc", *(f"Gender_identity,{n},0" for n in range(2))]
    (data / "additional_metadata.csv").write_text("\n".join(lines) + "\n")
    assert run(causal, "--on", "all", "--data", data) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "bbq: its 2 questions of three answers take hours on a CPU; --on bbq scores it" in said
    assert run(causal, "--on", "bbq", "--data", data) == 0
    assert "accuracy_ambiguous" in capsys.readouterr().out


def test_a_folder_is_walked_once(data, monkeypatch):
    from pathlib import Path

    from ncfast.fairness.data import DataFolder

    walks, rglob = [], Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, p: walks.append(p) or rglob(self, p))
    folder = DataFolder(str(data))
    assert folder.find("crows-pairs", "CROWS_pairs_anonymized.csv").parent == data
    assert [p.name for p in folder.glob("crows*.csv", "*.csv")] == ["crows_pairs_anonymized.csv"]
    assert not folder.has("dev.json")
    assert walks == ["*"]


def skipped(document):
    return {entry["benchmark"]: entry["reason"] for entry in document["skipped"]}


def test_all_leaves_out_what_is_about_another_attribute(tiny_model, data, capsys):
    for name in ("BEC-Pro_EN.tsv", "all_sentences.tsv", "occupations-stats.tsv"):
        (data / name).write_text("not read: it is about gender\n")
    model = str(tiny_model("masked"))
    found = evaluate([model], Settings(("all",), str(data), attribute="religion"))
    said = skipped(found.document)
    assert said["bec-pro"] == said["winogender"] == "it is about gender, not religion"
    assert {row["benchmark"] for row in found.scores()} == {"crows-pairs"}
    # No row of it: by name an error, of all of them one that is left out.
    (data / "crows_pairs_anonymized.csv").write_text(CROWS.replace("religion", "gender"))
    with pytest.raises(EvaluationError, match="no benchmark of religion to score"):
        evaluate([model], Settings(("all",), str(data), attribute="religion"))
    assert run(model, "--on", "winogender", "--data", data, "--attribute", "race") == 2
    assert "it is about gender, not race" in capsys.readouterr().err


def test_a_dev_json_of_something_else_is_no_stereoset(tiny_model, data):
    (data / "squad").mkdir()
    (data / "squad" / "dev.json").write_text('{"data": []}')
    found = evaluate([str(tiny_model("masked"))], Settings(("all",), str(data)))
    assert "no StereoSet file" in skipped(found.document)["stereoset"]
    assert {row["benchmark"] for row in found.scores()} == {"crows-pairs"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--predictions", "x", "--uniform"), "--predictions does not go with --uniform"),
        (("--predictions", "x", "--noise-control", "2"), "--predictions does not go with --noise"),
        (("--predictions", "x", "--attribute", "race"), "--predictions does not go with --attri"),
        (("--export", "lm-eval", "x", "--predictions", "y"), "--export does not go with --predic"),
        (("--export", "lm-eval", "x", "--text", "y"), "--export does not go with --text"),
        (("m", "--export", "lm-eval", "x"), "--export does not go with MODEL"),
    ],
)
def test_nothing_that_is_asked_for_is_passed_over(capsys, words, said):
    assert run(*words, "--on", "crows-pairs") == 2
    assert said in capsys.readouterr().err


def test_no_model_and_a_model_named_as_the_control_are_rejected(data):
    for models, said in (([], "no model given"), (["x/uniform"], "as the control is")):
        with pytest.raises(EvaluationError, match=said):
            evaluate(models, Settings(("crows-pairs",), str(data)))
