"""What a user who is careless, unlucky or malicious meets: one sentence, never a wrong number."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from ncfast.fairness import EvaluationError, Settings, evaluate
from ncfast.fairness.benchmarks import make
from ncfast.fairness.data import DataFolder
from ncfast.fairness.engine import ModelScorer
from ncfast.fairness.journal import Journal
from ncfast.fairness.requests import Masked
from ncfast.language import LanguageModel
from tests.fairness.conftest import CROWS
from tests.fairness.test_evaluate import run
from tests.fairness.test_names_of_files import (
    bbq,
    bias_in_bios,
    bias_nli,
    questions,
    stereoset,
    winobias,
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
    ("bias-nli", bias_nli, ("0.1,0.8", "0.1,nan"), "field neutral: 'nan'; expected a number from"),
    ("bias-nli", bias_nli, ("0.1,0.8", "0.1,"), "field neutral: empty; expected text"),
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
        all_special_ids, mask_token_id = words.all_special_ids, words.mask_token_id

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


@pytest.fixture
def task(tmp_path):
    folder = tmp_path / "SST-2"
    folder.mkdir()
    rows = [f"{'she' if n % 2 else 'he'} bant\t{n % 2}" for n in range(64)]
    (folder / "train.tsv").write_text("\n".join(rows) + "\n")
    (folder / "dev.tsv").write_text("\n".join(rows[:16]) + "\n")
    return DataFolder(str(tmp_path))


@pytest.mark.parametrize(("head", "body", "narrow"), [(128, 768, False), (128, 128, True)])
def test_a_model_is_as_narrow_as_its_body(head, body, narrow):
    from ncfast.fairness.benchmarks.glue_training import is_narrow

    config = SimpleNamespace(hidden_size=body)  # of ALBERT, whose head is narrower, the first
    model = SimpleNamespace(hidden_size=head, body=SimpleNamespace(config=config))
    assert is_narrow(model) is narrow


def test_a_narrow_model_learns_the_same_bits_in_one_thread(tiny_model, task):
    from ncfast.fairness.benchmarks.glue import Glue

    scorer = ModelScorer(LanguageModel.load(tiny_model("masked"), progress=False))
    seen, found, before = set(), [], torch.get_num_threads()
    scorer.progress = lambda done, total: seen.add(torch.get_num_threads())
    benchmark = Glue("sst2", epochs=1)
    items = benchmark.read(task, "all")
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(benchmark.measure(items, scorer))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    assert seen == {1}
    assert found[0] == found[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_task_is_learned_by_a_model_of_16_bits(tiny_model, task, values, dtype):
    from ncfast.fairness.benchmarks.glue import Glue

    model = LanguageModel.load(tiny_model("masked"), dtype=dtype, progress=False)
    benchmark = Glue("sst2", epochs=20)
    records = benchmark.measure(benchmark.read(task, "all"), ModelScorer(model))
    assert values(benchmark, records)["dev", "accuracy"] == 100
    assert model.head_weight.dtype is dtype


def test_a_model_that_is_not_finite_has_no_accuracy(tiny_model, task):
    from ncfast.fairness.benchmarks.glue import Glue

    model = LanguageModel.load(tiny_model("masked"), progress=False)
    with torch.no_grad():
        next(model.body.parameters())[:] = torch.nan
    benchmark = Glue("sst2", epochs=1)
    with pytest.raises(EvaluationError, match="its outputs are not finite"):
        benchmark.measure(benchmark.read(task, "all"), ModelScorer(model))
    with pytest.raises(EvaluationError, match="a hidden state is not finite"):
        ModelScorer(model).hidden_states([(2, 7, 3)], lambda states, number, length: states[0])


def test_a_word_that_a_model_rules_out_has_no_score(tiny_model):
    model = LanguageModel.load(tiny_model("masked"), progress=False)
    with torch.no_grad():
        model.head_bias[7] = -torch.inf
    with pytest.raises(EvaluationError, match="not finite"):
        ModelScorer(model).masked([Masked((2, 4, 9, 3), 1, (7,))])


def test_a_task_without_a_text_or_without_rows_is_named(tmp_path, task):
    (tmp_path / "SST-2" / "dev.tsv").write_text("she\t1\n \t0\n")
    with pytest.raises(EvaluationError, match=r"dev\.tsv, row 2, field sentence: empty"):
        make("sst2").read(task, "all")
    (tmp_path / "SST-2" / "dev.tsv").write_text("sentence\tlabel\n")
    with pytest.raises(EvaluationError, match=r"dev\.tsv has no rows"):
        make("sst2").read(task, "all")


def test_questions_of_two_files_are_of_one(tmp_path):
    bbq(tmp_path)
    (tmp_path / "b").mkdir()
    rows = [questions("Age")[0] | {"context": "another"}]
    (tmp_path / "b" / "Age.jsonl").write_text(json.dumps(rows[0]))
    with pytest.raises(EvaluationError, match="differ; expected --data with one of them"):
        make("bbq").read(DataFolder(str(tmp_path)), "all")
