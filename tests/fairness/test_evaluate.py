"""The command: one model, controls, predictions, export, and the tables it reads."""

from __future__ import annotations

import csv
import json

import pytest
import torch

from ncfast.fairness import EvaluationError, Settings, evaluate
from ncfast.fairness.answers import weights_digest
from ncfast.fairness.controls import NoiseControl
from ncfast.fairness.data import read_rows
from ncfast.fairness.engine import ModelScorer
from ncfast.language import LanguageModel
from tests.fairness.conftest import CROWS, run

FIELDS = ("model", "benchmark", "subset", "variant", "metric", "value", "low", "high", "n")
FIELDS += ("clusters", "note")


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


def test_a_model_in_train_mode_is_scored_without_dropout_and_stays_in_it(tiny_model, data):
    settings = Settings(("crows-pairs",), str(data))
    model = LanguageModel.load(tiny_model("masked"), progress=False)
    expected = evaluate([model], settings).document["scores"]
    model.model.train()
    assert evaluate([model], settings).document["scores"] == expected
    assert all(module.training for module in model.model.modules())
    with pytest.raises(EvaluationError, match=r"it is in train mode; expected model\.eval\(\)"):
        ModelScorer(model)


def test_a_model_with_a_hook_is_no_other_and_answers_anew(tiny_model, data, tmp_path):
    """Of the same weights: what was kept of the one is not read for the other."""
    settings, said = Settings(("crows-pairs",), str(data)), []
    model = LanguageModel.load(tiny_model("masked"), progress=False)
    plain = evaluate([model], settings, tmp_path).document["scores"]
    layer = next(m for m in model.body.modules() if isinstance(m, torch.nn.LayerNorm))
    hook = layer.register_forward_hook(lambda module, given, made: -made)
    hooked = evaluate([model], settings, tmp_path, say=said.append).document["scores"]
    assert hooked != plain
    assert any("has a hook or method of yours" in line for line in said)
    hook.remove()
    assert evaluate([model], settings, tmp_path).document["scores"] == plain


def test_bad_data_ends_the_run_before_a_model_is_loaded(data):
    (data / "crows_pairs_anonymized.csv").write_text(CROWS.replace("religion", "x"))
    with pytest.raises(EvaluationError, match="row 4, field bias_type"):
        evaluate(["there-is-no-such-model"], Settings(("crows-pairs",), str(data)))


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


def test_lines_of_json_end_where_json_says(tmp_path):
    from ncfast.fairness.data import read_json

    path = tmp_path / "a.jsonl"
    text = '{"a": "one\u2028two\u0085three"}\r\n{"a": "four"}\n'
    path.write_bytes(text.encode())
    assert [row["a"] for row in read_json(path)] == ["one\u2028two\u0085three", "four"]


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
