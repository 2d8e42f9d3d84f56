"""Answers that are kept: nothing is asked twice, and nothing stale is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ncfast.fairness import Settings, evaluate
from ncfast.fairness.engine import ModelScorer


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
    assert {
        "engine.py",
        "requests.py",
        "texts.py",
        "glue_training.py",
        "heads.py",
        "checks.py",
    } <= set(read)


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


def test_a_hook_and_a_method_of_somebody_s_own_are_changes(tiny_model):
    from ncfast.fairness.answers import changed_parts
    from ncfast.language import LanguageModel

    model = LanguageModel.load(tiny_model("masked"), progress=False)
    assert changed_parts(model) == []
    (name, part), *_ = model.body.named_children()
    hook = part.register_forward_pre_hook(lambda module, given: None)
    assert [found.rpartition(".")[2] for found in changed_parts(model)] == [name]
    hook.remove()
    part.forward = lambda *given, **more: None
    assert [found.rpartition(".")[2] for found in changed_parts(model)] == [name]
