"""The command: one model, two models, controls, predictions, export, damage and resume."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import jsonschema
import pytest
import torch

from ncfast.cli import main
from ncfast.fairness import EvaluationError, Settings, evaluate
from ncfast.fairness.answers import weights_digest
from ncfast.fairness.controls import NoiseControl
from ncfast.fairness.data import read_rows
from ncfast.fairness.engine import ModelScorer
from ncfast.fairness.schema import evaluation_schema
from ncfast.language import LanguageModel
from tests.fairness.conftest import CROWS

FIELDS = ("model", "benchmark", "subset", "variant", "metric", "value", "low", "high", "n")
FIELDS += ("clusters", "note")


@pytest.fixture
def other(tiny_model, tmp_path):
    """Return a copy of the masked model with other weights."""
    from transformers import AutoModelForMaskedLM

    folder = tmp_path / "other"
    shutil.copytree(tiny_model("masked"), folder)
    model = AutoModelForMaskedLM.from_pretrained(folder)
    with torch.no_grad():
        model.get_output_embeddings().weight.add_(
            torch.randn(model.config.vocab_size, 16, generator=torch.manual_seed(0)) * 0.1
        )
    model.save_pretrained(folder)
    return folder


def run(*words):
    return main(["evaluate", *map(str, words)])


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_one_model(tiny_model, causal, data, tmp_path, capsys, kind):
    out = tmp_path / "out"
    model = causal if kind == "causal" else tiny_model(kind)
    assert run(model, "--on", "all", "--data", data, "--out", out) == 0
    document = json.loads((out / "evaluation.json").read_text())
    variants = {"masked": {"original", "difference"}, "causal": {"sum", "mean", "shared"}}[kind]
    assert {row["variant"] for row in document["scores"]} == variants
    assert list(document["scores"][0]) == list(FIELDS)
    assert {row["subset"] for row in document["scores"]} == {"gender"}
    assert "stereoset" in {entry["benchmark"] for entry in document["skipped"]}
    items = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    assert len(items) == 3 * len(variants)
    assert "crows-pairs" in capsys.readouterr().out
    assert "<table>" in (out / "evaluation.html").read_text()


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


def test_noise_is_taken_back_and_keeps_lengths(tiny_model):
    model = LanguageModel.load(tiny_model("masked"), progress=False)
    before, digest = model.head_weight.detach().clone(), weights_digest(model)
    with NoiseControl(model).turned(1):
        changed = (model.head_weight != before).any(1)
        assert 0 < changed.sum() < len(before)
        cosine = torch.nn.functional.cosine_similarity(model.head_weight[changed], before[changed])
        torch.testing.assert_close(cosine, torch.full_like(cosine, 15.0).deg2rad().cos())
        torch.testing.assert_close(model.head_weight.norm(dim=1), before.norm(dim=1))
    assert weights_digest(model) == digest


def test_finished_benchmarks_are_not_asked_again(tiny_model, data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    settings = Settings(("crows-pairs",), str(data))
    first = evaluate([str(tiny_model("masked"))], settings, out)
    asked = []
    monkeypatch.setattr(ModelScorer, "_features", lambda *a, **k: asked.append(1))
    again = evaluate([str(tiny_model("masked"))], settings, out)
    assert not asked
    assert again.document == first.document


def test_a_killed_run_goes_on_to_the_same_numbers(tiny_model, data, tmp_path, monkeypatch):
    settings = Settings(("crows-pairs",), str(data), batch_tokens=8)
    whole = evaluate([str(tiny_model("masked"))], settings)
    calls = []
    features = ModelScorer._features

    def dies(self, *arguments, **more):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return features(self, *arguments, **more)

    monkeypatch.setattr(ModelScorer, "_features", dies)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        evaluate([str(tiny_model("masked"))], settings, out)
    again = evaluate([str(tiny_model("masked"))], settings, out)
    assert again.document == whole.document
    # Nothing is asked twice: the call that died, and the rest.
    once = len(calls)
    monkeypatch.setattr(ModelScorer, "_features", features)
    calls.clear()
    monkeypatch.setattr(
        ModelScorer,
        "_features",
        lambda self, *a, **k: calls.append(1) or features(self, *a, **k),
    )
    evaluate([str(tiny_model("masked"))], settings)
    assert once == len(calls) + 1


def test_a_damaged_answer_is_named(tiny_model, data, tmp_path):
    out = tmp_path / "out"
    settings = Settings(("crows-pairs",), str(data))
    evaluate([str(tiny_model("masked"))], settings, out)
    path = next(out.glob("answers/*/crows-pairs.json"))
    path.write_text(path.read_text().replace('"more"', '"less"', 1))
    with pytest.raises(ValueError, match=r"crows-pairs\.json"):
        evaluate([str(tiny_model("masked"))], settings, out)


def test_bad_data_ends_the_run_before_a_model_is_loaded(data):
    (data / "crows_pairs_anonymized.csv").write_text(CROWS.replace("religion", "x"))
    with pytest.raises(EvaluationError, match="row 4, field bias_type"):
        evaluate(["there-is-no-such-model"], Settings(("crows-pairs",), str(data)))


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


def test_predictions_need_no_model(tmp_path, capsys):
    path = tmp_path / "predictions.csv"
    path.write_text("neutral\n0.6\n0.2\n")
    assert run("--on", "bias-nli", "--predictions", path, "--out", tmp_path / "out") == 0
    rows = json.loads((tmp_path / "out" / "evaluation.json").read_text())["scores"]
    assert {r["metric"]: r["value"] for r in rows} == {"nn": 0.4, "t50": 0.5, "t70": 0}


def test_items_are_exported_as_tasks(data, tmp_path, capsys):
    folder = tmp_path / "tasks"
    assert run("--on", "crows-pairs", "--data", data, "--export", "lm-eval", folder) == 0
    rows = [json.loads(x) for x in (folder / "crows_pairs.jsonl").read_text().splitlines()]
    assert rows[0]["choices"] == ["she bant card", "he bant card"]
    task = (folder / "crows_pairs.yaml").read_text()
    assert "task: ncfast_crows_pairs" in task
    assert 'doc_to_choice: "{{choices}}"' in task


def test_a_new_benchmark_is_one_class(tiny_model, data):
    from ncfast.fairness.benchmarks import make

    class Half(type(make("crows-pairs"))):
        name = "half"

        def read(self, folder, attribute):
            return super().read(folder, attribute)[:1]

    settings = Settings(("all",), str(data))
    found = evaluate([str(tiny_model("masked"))], settings, benchmarks={"half": Half()})
    assert {row["benchmark"] for row in found.scores()} == {"half"}
    assert found.scores(metric="metric")[0]["n"] == 1


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


@pytest.mark.parametrize("change", ["tokenizer", "config", "code"])
def test_answers_are_kept_of_what_they_were_asked_with(
    tiny_model, data, tmp_path, monkeypatch, change
):
    from ncfast.fairness import answers

    folder, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(tiny_model("masked"), folder)
    settings = Settings(("crows-pairs",), str(data))
    evaluate([str(folder)], settings, out)
    if change == "code":
        monkeypatch.setattr(answers, "_code", lambda: "the version after a mend")
    else:
        name = "tokenizer.json" if change == "tokenizer" else "config.json"
        document = json.loads((folder / name).read_text())
        if change == "config":
            document["layer_norm_eps"] = 0.5
        else:
            words = document["model"]["vocab"]
            words["she"], words["he"] = words["he"], words["she"]
        (folder / name).write_text(json.dumps(document))
    asked, features = [], ModelScorer._features
    monkeypatch.setattr(
        ModelScorer, "_features", lambda self, *a: asked.append(1) or features(self, *a)
    )
    evaluate([str(folder)], settings, out)
    assert asked


def test_answers_are_kept_of_the_code_that_made_and_put_the_requests(monkeypatch):
    from ncfast.fairness import answers

    read = []
    monkeypatch.setattr(Path, "read_bytes", lambda self: read.append(self.name) or b"")
    answers._code.__wrapped__()
    assert {"engine.py", "requests.py", "texts.py", "glue_training.py"} <= set(read)


def test_answers_are_kept_of_a_benchmark_s_own_settings(tiny_model, tmp_path, monkeypatch):
    from ncfast.fairness.benchmarks.glue import Glue
    from ncfast.fairness.benchmarks.perplexity import Perplexity

    (tmp_path / "SST-2").mkdir()
    rows = "".join(f"{'she' if n % 2 else 'he'} bant\t{n % 2}\n" for n in range(8))
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / "SST-2" / name).write_text(rows)
    (tmp_path / "text.txt").write_text("she bant\nhe milk\n")
    asked = []
    for kind in (Glue, Perplexity):
        measure = kind.measure
        monkeypatch.setattr(
            kind,
            "measure",
            lambda self, *given, measure=measure: asked.append(self) or measure(self, *given),
        )
    text = tmp_path / "text.txt"
    several = [Glue("sst2", 0, 1), Glue("sst2", 1, 1), Glue("sst2", 1, 2)]
    several += [Perplexity(text, 1), Perplexity(text, 2)]
    model, settings = str(tiny_model("masked")), Settings(data=str(tmp_path), resamples=2)
    for benchmark in [b for b in several for _ in range(2)]:
        evaluate([model], settings, tmp_path / "out", benchmarks={benchmark.name: benchmark})
    assert asked == several


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


def test_one_model_at_a_time_is_in_memory(tiny_model, other, data):
    import weakref

    seen, alive = [], []

    def load(spec):
        alive.append(sum(one() is not None for one in seen))
        model = LanguageModel.load(spec, progress=False)
        seen.append(weakref.ref(model))
        return model

    models = [str(tiny_model("masked")), str(other)]
    evaluate(models, Settings(("crows-pairs",), str(data)), load=load)
    assert alive == [0, 0]
    with_noise = Settings(("crows-pairs",), str(data), noise=1)
    evaluate(models, with_noise, load=load)
    assert alive[2:] == [0, 1]


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


def test_lines_of_json_end_where_json_says(tmp_path):
    from ncfast.fairness.data import read_json

    path = tmp_path / "a.jsonl"
    text = '{"a": "one\u2028two\u0085three"}\r\n{"a": "four"}\n'
    path.write_bytes(text.encode())
    assert [row["a"] for row in read_json(path)] == ["one\u2028two\u0085three", "four"]


def test_no_model_and_a_model_named_as_the_control_are_rejected(data):
    for models, said in (([], "no model given"), (["x/uniform"], "as the control is")):
        with pytest.raises(EvaluationError, match=said):
            evaluate(models, Settings(("crows-pairs",), str(data)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its first line is empty; expected a header"),
        ("\na,b\n1,2\n", "its first line is empty; expected a header"),
        ("a,a\n1,2\n", "the header has 'a' twice; expected each column once"),
        ("a,b\n1\n", "row 1, field a: 1 fields; expected 2"),
        ("a,b\n1,2\n3,xxxxxxxxxxxxxxxxxx\n", "after row 1: no table"),
    ],
)
def test_what_is_no_table_is_named(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    most = csv.field_size_limit(16)  # of a field, for the process: others set it as they like
    try:
        with pytest.raises(EvaluationError, match=message):
            list(read_rows(path, ","))
    finally:
        csv.field_size_limit(most)


def test_a_table_is_read_as_it_is(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b'a,b\r\n1,"x\r\ny"\r\n\r\n2,z')
    assert list(read_rows(path, ",")) == [(1, {"a": "1", "b": "x\ny"}), (3, {"a": "2", "b": "z"})]
