"""GLUE: a task is learned, its files are read whole, and what is cut is said."""

from __future__ import annotations

import pytest
import torch

from ncfast.fairness.benchmarks import make
from ncfast.fairness.benchmarks.glue import Glue
from ncfast.fairness.benchmarks.glue_items import Example, read_stsb
from ncfast.fairness.data import DataFolder
from ncfast.fairness.errors import EvaluationError


def test_a_task_is_learned_and_the_model_is_left_as_it_was(tmp_path, tiny_model, values):
    from ncfast.fairness.answers import weights_digest
    from ncfast.fairness.engine import ModelScorer
    from ncfast.language import LanguageModel

    folder = tmp_path / "SST-2"
    folder.mkdir()
    rows = [f"{'she' if n % 2 else 'he'} bant\t{n % 2}" for n in range(64)]
    (folder / "train.tsv").write_text("\n".join(rows) + "\n")
    (folder / "dev.tsv").write_text("\n".join(rows[:16]) + "\n")
    scorer = ModelScorer(LanguageModel.load(tiny_model("masked"), progress=False))
    before = weights_digest(scorer.model)
    told = []
    scorer.progress = lambda done, total: told.append((done, total))
    benchmark = Glue("sst2", epochs=20)
    records = benchmark.measure(benchmark.read(DataFolder(str(tmp_path)), "all"), scorer)
    assert values(benchmark, records)["dev", "accuracy"] == 100
    assert (len(told), told[-1][0]) == (told[-1][1] // 32, told[-1][1])  # a minute is not silent
    assert weights_digest(scorer.model) == before


def test_what_is_cut_is_said_and_positions_are_heeded(tmp_path, tiny_model):
    from ncfast.fairness.benchmarks.glue_training import cut_to
    from ncfast.fairness.engine import ModelScorer
    from ncfast.language import LanguageModel

    folder = tmp_path / "SST-2"
    folder.mkdir()
    model = LanguageModel.load(tiny_model("masked"), progress=False)
    model.max_positions = 16
    assert cut_to(model) == 16
    long = "she bant " * 20
    (folder / "train.tsv").write_text(f"{long}\t1\nhe bant\t0\n")
    (folder / "dev.tsv").write_text(f"{long}\t1\nhe bant\t0\n")
    benchmark = Glue("sst2", epochs=1)
    items = benchmark.read(DataFolder(str(tmp_path)), "all")
    seen = []
    model.body.register_forward_pre_hook(
        lambda module, given, named: seen.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    records = benchmark.measure(items, ModelScorer(model))
    assert max(seen) == 16
    assert {s.note for s in benchmark.statistics(records)} == {"1 examples cut to the first tokens"}
    assert benchmark.hours(items, model) == ""
    many = [Example("train", n, ("word " * 50,), 0.0) for n in range(1000)]
    model.body.big = torch.nn.Linear(20_000, 20_000, device="meta")
    assert Glue("sst2").hours(many, model) == "its fine-tuning takes about 3 hours on a CPU"


@pytest.mark.parametrize("given", ["nan", "6", "x"])
def test_a_similarity_that_is_none_is_named(tmp_path, given):
    path = tmp_path / "dev.csv"
    path.write_text(f"a,b,2.5\na,b,{given}\n")
    with pytest.raises(EvaluationError, match=r"dev\.csv, row 2, field score: .*from 0 to 5"):
        read_stsb(path)


@pytest.mark.parametrize(
    ("task", "train", "dev"), [("sst2", 6920, 872), ("rte", 1244, 139), ("stsb", 5749, 1500)]
)
def test_published_tasks_are_read_whole(published, task, train, dev):
    items = make(task).read(published, "all")
    assert sum(e.split == "train" for e in items) == train
    assert sum(e.split == "dev" for e in items) == dev
