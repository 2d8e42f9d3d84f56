"""What a user sets as torch's default dtype is of what the user makes, and changes no result."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import ncfast
from ncfast.agreement import NearestCenterAgreement
from ncfast.language import Corpus, LanguageModel
from ncfast.language.perturbation import spread_rows
from ncfast.losses import NC3Regularizer
from ncfast.measure import measure
from ncfast.training import LoopSettings, Objective, Training, TrainingBatches, make_optimizer
from tests.default_dtype import default_dtype

NARROW = [torch.bfloat16, torch.float16]
OF_THE_RUN = ("created", "timing")  # of a report


@pytest.mark.parametrize("dtype", NARROW)
def test_metrics(dtype):
    torch.manual_seed(0)
    x, y, head = torch.randn(3000, 16) + 1, torch.randint(0, 300, (3000,)), torch.randn(300, 16)

    def found():
        stats = ncfast.ClassStatistics(300, 16, diagonal=True)
        stats.update(x, y)
        report = ncfast.neural_collapse(stats, head_weight=head)
        drawn = ncfast.neural_collapse(stats, head_weight=head, pairs=500)
        agreement = NearestCenterAgreement(stats, head)
        agreement.update(x, y)
        return repr((report.to_dict(), drawn.to_dict(), agreement.compute()))

    expected = found()
    with default_dtype(dtype):
        assert found() == expected


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("kind", ["masked", "encoder"])
def test_measure(tiny_model, tiny_text, kind, dtype):
    model = LanguageModel.load(str(tiny_model(kind)), progress=False)
    settings = dict(batch_size=8, block_size=32, layers="all", bootstrap=20, progress=False)

    def found():
        report = measure(model, str(tiny_text), controls="random:2,matched", **settings).report
        return {key: repr(report[key]) for key in report if key not in OF_THE_RUN}

    expected = found()
    with default_dtype(dtype):
        assert found() == expected


@pytest.mark.parametrize("dtype", NARROW)
def test_training(tiny_model, tiny_text, tmp_path, dtype):
    def found(folder):
        model = LanguageModel.load(str(tiny_model("masked")), progress=False)
        with default_dtype(dtype if folder == "narrow" else torch.float32):
            corpus = Corpus.from_spec([str(tiny_text)], model.tokenizer, None, 32, progress=False)
            batches = TrainingBatches(corpus, model, "mlm", 8)
            term = NC3Regularizer(model.vocab_size, model.hidden_size, range(5, 15))
            objective = Objective(model, {"nc3": term.train()}, micro_batches=2)
            optimizer = make_optimizer(model.model, "AdamW", 1e-3)
            settings = LoopSettings(steps=3, metrics_every=2, progress=False)
            Training(objective, optimizer, batches, settings, tmp_path / folder).run()
        lines = (tmp_path / folder / "steps.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]

    assert found("narrow") == found("single")


@pytest.mark.parametrize("dtype", NARROW)
def test_a_model_applied_to(dtype):
    """600 rows: the last is one that 16 bits round past, of those a head is asked about."""
    size = dict(n_embd=8, n_layer=1, n_head=2, n_positions=16)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=600, **size)).eval()
    ids = torch.arange(0, 600, 50)[None]
    with torch.no_grad(), ncfast.apply_to(model):
        expected = model(input_ids=ids, labels=ids).loss
    with torch.no_grad(), default_dtype(dtype), ncfast.apply_to(model):
        assert torch.equal(model(input_ids=ids, labels=ids).loss, expected)


@pytest.mark.parametrize("dtype", NARROW)
def test_the_rows_that_a_model_is_tried_with(dtype):
    for rows in (1, 2, 7, 8, 600, 49_152, 2**31 + 1):
        expected = [i * (rows - 1) // max(1, min(8, rows) - 1) for i in range(min(8, rows))]
        with default_dtype(dtype):
            assert spread_rows(rows, 8).tolist() == expected
