"""GLUE tasks of narrow models, of 16 bits, and of weights that are not finite."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ncfast.fairness import EvaluationError
from ncfast.fairness.benchmarks import make
from ncfast.fairness.benchmarks.glue_items import TASKS
from ncfast.fairness.benchmarks.glue_training import fine_tune
from ncfast.fairness.data import DataFolder
from ncfast.fairness.engine import ModelScorer
from ncfast.language import LanguageModel


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


def test_a_table_of_mrpc_without_its_header_loses_no_row(tmp_path):
    (tmp_path / "MRPC").mkdir()
    rows = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t5\t6\ta b\tc", "0\t7\t8\td\te f"]
    found = []
    for lines in (rows, rows[1:]):
        for name in ("train.tsv", "dev.tsv"):
            (tmp_path / "MRPC" / name).write_text("\n".join(lines) + "\n")
        found.append(make("mrpc").read(DataFolder(str(tmp_path)), "all"))
    assert found[0] == found[1]
    assert len(found[0]) == 4


def test_a_task_without_a_text_or_without_rows_is_named(tmp_path, task):
    (tmp_path / "SST-2" / "dev.tsv").write_text("she\t1\n \t0\n")
    with pytest.raises(EvaluationError, match=r"dev\.tsv, row 2, field sentence: empty"):
        make("sst2").read(task, "all")
    (tmp_path / "SST-2" / "dev.tsv").write_text("sentence\tlabel\n")
    with pytest.raises(EvaluationError, match=r"dev\.tsv has no rows"):
        make("sst2").read(task, "all")


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("sst2", "good\tmovie\t1", "field sentence: 3 fields; expected 2"),
        ("sst2", "1", "field sentence: 1 fields; expected 2"),
        ("rte", "7\ta\tb\tc\tentailment", "field label: 5 fields; expected 3, or 4 with ids"),
        ("stsb", 'a,"b,3.0\nc,d,1.0', "no table"),
    ],
)
def test_a_row_of_other_columns_is_named(tmp_path, name, row, said):
    path = tmp_path / "dev.tsv"
    path.write_text(f"{row}\n")
    with pytest.raises(EvaluationError, match=said):
        TASKS[name].read(path)


def test_a_model_that_is_frozen_learns_a_task_as_one_that_is_not(tiny_model, task):
    from ncfast.fairness.benchmarks.glue import Glue

    benchmark, found = Glue("sst2", epochs=1), []
    model = LanguageModel.load(tiny_model("masked"), progress=False)
    for needed in (True, False):
        model.model.requires_grad_(needed)
        found.append(fine_tune(model, *_halves(benchmark.read(task, "all")), 2, 0, 1))
    assert found[0] == found[1]
    assert not any(p.requires_grad for p in model.model.parameters())


def _halves(items):
    return [[one for one in items if one.split == split] for split in ("train", "dev")]
