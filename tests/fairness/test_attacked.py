"""What a user who is careless, unlucky or malicious meets: one sentence, never a wrong number."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from ncfast.fairness import EvaluationError, Settings, evaluate
from ncfast.fairness.benchmarks import make
from ncfast.fairness.controls import NoiseControl
from ncfast.fairness.data import DataFolder
from ncfast.fairness.engine import ModelScorer
from ncfast.fairness.journal import Journal
from ncfast.fairness.requests import Masked
from ncfast.language import LanguageModel
from tests.fairness.conftest import CROWS, run
from tests.fairness.test_attacked_predictions import scores
from tests.fairness.test_names_of_files import (
    bbq,
    bias_nli,
    questions,
    stereoset,
)

KEY = (1, 2), 0, 5


@pytest.fixture
def model(tiny_model, tmp_path):
    """Return a copy of the masked model that a test may change."""
    return shutil.copytree(tiny_model("masked"), tmp_path / "model")


def changed(folder, change):
    """Change a model's weights where they lie."""
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(folder)
    with torch.no_grad():
        change(model)
    model.save_pretrained(folder)


def test_noise_is_asked_anew_of_another_body_with_the_same_head(model, data, tmp_path):
    settings = Settings(("crows-pairs",), str(data), noise=1)
    evaluate([str(model)], settings, tmp_path / "out")
    changed(model, lambda m: m.bert.encoder.layer[0].output.dense.weight.mul_(-2))
    again = evaluate([str(model)], settings, tmp_path / "out")
    assert again.document == evaluate([str(model)], settings, tmp_path / "fresh").document


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_journal_that_is_cut_anywhere_goes_on(tmp_path, cut):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal[KEY] = -1.5
    journal.flush()
    path.write_bytes(path.read_bytes()[:-cut])
    journal = Journal(path)  # the answer may be lost, and is asked again
    journal[KEY] = -1.5
    journal.flush()
    assert Journal(path)[KEY] == -1.5


def test_a_model_is_called_as_its_folder_is(model, data, monkeypatch, tmp_path):
    monkeypatch.chdir(model)
    found = evaluate(["."], Settings(("crows-pairs",), str(data)), tmp_path / "out")
    assert found.document["models"][0]["name"] == "model"


def test_a_benchmark_that_is_named_beside_all_is_scored(causal, tmp_path, capsys):
    bbq(tmp_path)
    words = ("--on", "all,bbq", "--data", tmp_path, "--attribute", "religion", "--out")
    assert run(causal, *words, tmp_path / "out") == 0
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert {row["benchmark"] for row in document["scores"]} == {"bbq"}


def test_rows_of_zeros_are_not_turned_and_not_counted(model):
    first, second = (LanguageModel.load(model, progress=False) for _ in range(2))
    for one in (first, second):
        with torch.no_grad():
            one.head_weight[-8:] = 0  # as a vocabulary is padded
    with torch.no_grad():
        second.head_weight[5] = second.head_weight[5].roll(1)
    assert NoiseControl(first, second).description.startswith("1 head rows turned")


def test_a_context_s_id_that_is_a_list_is_named(tmp_path):
    stereoset(tmp_path)
    path = tmp_path / "dev.json"
    path.write_text(path.read_text().replace('"id": "intra0",', '"id": ["intra0"],'))
    with pytest.raises(EvaluationError, match=r"dev\.json, row 1, field id: a list; expected str"):
        make("stereoset").read(DataFolder(str(tmp_path)), "gender")


def test_a_line_of_winobias_without_an_occupation_is_named(tmp_path):
    for side in ("pro", "anti"):
        for kind in ("type1", "type2"):
            for split in ("dev", "test"):
                name = f"{side}_stereotyped_{kind}.txt.{split}"
                (tmp_path / name).write_text("1 [he] saw [her].\n")
    with pytest.raises(EvaluationError, match=r"row 1, field sentence: no occupation in"):
        make("winobias").read(DataFolder(str(tmp_path)), "gender")


@pytest.mark.parametrize("kind", ["crows-pairs", "stereoset", "sst2", "seat", "perplexity"])
def test_two_different_files_of_one_name_are_not_chosen_from(tmp_path, kind):
    name, text = {
        "crows-pairs": ("crows_pairs_anonymized.csv", CROWS),
        "stereoset": ("stereoset/dev.json", ""),
        "sst2": ("SST-2/train.tsv", "she bant\t1\n"),
        "seat": (
            "sent-weat6.jsonl",
            json.dumps({r: {"examples": ["she"]} for r in ("targ1", "targ2", "attr1", "attr2")}),
        ),
        "perplexity": ("wikitext-2/test.txt", "she bant\n"),
    }[kind]
    for folder in ("a", "b"):
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
        if kind == "stereoset":
            stereoset(path.parent)
        if kind == "sst2":
            (path.parent / "dev.tsv").write_text(text)
    made = make(kind)
    items = made.read(DataFolder(str(tmp_path)), "gender")  # copies
    assert len(items) == len(made.read(DataFolder(str(tmp_path / "a")), "gender"))
    path.write_text(path.read_text().replace("she", "he"))
    with pytest.raises(EvaluationError, match=r"differ; expected --data with one of them"):
        made.read(DataFolder(str(tmp_path)), "gender")


@pytest.mark.parametrize("name", ["evaluation.json", "items.jsonl", "evaluation.html"])
@pytest.mark.parametrize("text", ['{"mine": 1}\n', "not JSON", "[]", '{"schema": ["x"]}'])
def test_a_folder_with_a_file_of_something_else_is_left_alone(tmp_path, capsys, name, text):
    path = bias_nli(tmp_path)
    (tmp_path / name).write_text(text)
    assert run("--on", "bias-nli", "--predictions", path, "--out", tmp_path) == 2
    assert "not of an evaluation; expected another --out folder" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == text
    (tmp_path / name).unlink()
    for _ in range(2):  # an evaluation is written over
        assert run("--on", "bias-nli", "--predictions", path, "--out", tmp_path) == 0


def test_the_command_that_is_kept_can_be_run_again(tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    path = bias_nli(folder)
    found = scores("bias-nli", path, folder)
    assert f"--predictions '{path}'" in found["command"]


def test_nothing_about_another_attribute_is_exported(data, tmp_path, capsys):
    words = ("--data", data, "--attribute", "religion", "--export", "lm-eval", tmp_path / "tasks")
    (data / "all_sentences.tsv").write_text("not read: it is about gender\n")
    (data / "occupations-stats.tsv").write_text("not read: it is about gender\n")
    assert run("--on", "all", *words) == 0
    assert {p.name for p in (tmp_path / "tasks").iterdir()} == {
        "crows_pairs.jsonl",
        "crows_pairs.yaml",
    }
    assert run("--on", "crows-pairs,winogender", *words) == 2
    assert "winogender: it is about gender, not religion" in capsys.readouterr().err
    assert run("--on", "crows-pairs", *words, "--out", tmp_path / "out") == 2
    assert "--export does not go with --out" in capsys.readouterr().err


def test_perplexities_of_other_tokens_are_not_compared(causal, tmp_path):
    """Windows of two vocabularies have the same numbers, and are parts of the text that differ."""
    from transformers import AutoTokenizer

    other = shutil.copytree(causal, tmp_path / "other")
    document = json.loads((other / "tokenizer.json").read_text())
    words = document["model"]["vocab"]
    words["she"], words["he"] = words["he"], words["she"]
    (other / "tokenizer.json").write_text(json.dumps(document))
    AutoTokenizer.from_pretrained(other)
    from transformers import AutoModelForCausalLM

    weights = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        next(weights.parameters()).mul_(1.1)
    weights.save_pretrained(other)
    (tmp_path / "story.txt").write_text("she bant card\nhe milk\n")
    words = ("--on", "perplexity", "--text", tmp_path / "story.txt", "--data", tmp_path)
    assert run(causal, other, *words, "--out", tmp_path / "out") == 0
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert len(document["scores"]) == 2
    (row,) = document["differences"]
    assert (row["value"], row["note"]) == (None, "no items of both models")


def test_lines_that_are_left_out_of_a_perplexity_are_said(tmp_path, told):
    (tmp_path / "story.txt").write_text("she bant\n" * 9)
    from ncfast.fairness.benchmarks.perplexity import Perplexity

    benchmark, scorer = Perplexity(tmp_path / "story.txt", lines=4), told("causal", she=-1.0)
    scorer.kind, words = "masked", scorer.tokenizer

    class Fast:
        all_special_ids = words.all_special_ids
        mask_token, mask_token_id = words.mask_token, words.mask_token_id

        def __call__(self, text):
            ids = words(text)["input_ids"]
            found = {"input_ids": ids}
            places = [None, *range(len(ids) - 2), None]
            return type("Batch", (dict,), {"word_ids": lambda self: places})(found)

    scorer.tokenizer = Fast()
    scorer.masked = lambda requests: [(-1.0,) for _ in requests]
    records = benchmark.measure(benchmark.read(DataFolder(str(tmp_path)), "all"), scorer)
    notes = {s.note for s in benchmark.statistics(records)}
    assert notes == {"6 tokens; 3 of 9 lines, evenly spread"}


def test_a_masked_and_a_causal_model_without_a_common_variant_are_said(
    tiny_model, causal, data, tmp_path
):
    found = evaluate(
        [str(tiny_model("masked")), str(causal)], Settings(("crows-pairs",), str(data))
    )
    assert found.document["differences"] == []
    assert found.document["skipped"] == [
        {
            "benchmark": "crows-pairs",
            "model": "causal",
            "reason": "not compared with tiny-masked: no variant is scored for both",
        }
    ]


def test_a_word_that_a_model_rules_out_has_no_score(tiny_model):
    model = LanguageModel.load(tiny_model("masked"), progress=False)
    with torch.no_grad():
        model.head_bias[7] = -torch.inf
    with pytest.raises(EvaluationError, match="not finite"):
        ModelScorer(model).masked([Masked((2, 4, 9, 3), 1, (7,))])


def test_questions_of_two_files_are_of_one(tmp_path):
    bbq(tmp_path)
    (tmp_path / "b").mkdir()
    rows = [questions("Age")[0] | {"context": "another"}]
    (tmp_path / "b" / "Age.jsonl").write_text(json.dumps(rows[0]))
    with pytest.raises(EvaluationError, match="differ; expected --data with one of them"):
        make("bbq").read(DataFolder(str(tmp_path)), "all")
