"""A part that its user has frozen in eval mode stays so, whatever measures or trains the model."""

from __future__ import annotations

import pytest
import torch

from ncfast.finetune.evaluate import perplexity
from ncfast.language import LanguageModel
from ncfast.language.layers import LayerFeatures
from ncfast.training import LoopSettings, Training
from ncfast.training.loss_check import check_loss
from ncfast.training.process_memory import warm_up


def _wrap(setup):
    LanguageModel.from_pretrained_model(setup.model.model, setup.model.tokenizer)


def _call_back(setup):
    from ncfast.integrations.transformers import NeuralCollapseCallback

    batch = setup.batches(0)
    names = ("input_ids", "attention_mask", "labels")
    given = {name: getattr(batch, name) for name in names}
    NeuralCollapseCallback([given], setup.model.tokenizer).measure(setup.model.model)


def _check(setup):
    batch = setup.batches(0)
    check_loss(setup.model, batch.input_ids, batch.attention_mask, batch.labels, "now")


WAYS = {
    "wrapping": _wrap,
    "the callback": _call_back,
    "the loss's check": _check,
    "perplexity": lambda setup: perplexity(setup.model, setup.batches, max_tokens=100),
    "layers": lambda setup: LayerFeatures(setup.model),
    "training": lambda setup: Training(
        setup.objective, setup.optimizer, setup.batches, LoopSettings(steps=1, progress=False)
    ).run(),
    "warming up": lambda setup: warm_up(setup.objective, setup.batches(0)),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_part_keeps_its_mode(way, setup_run):
    setup = setup_run("masked")
    dropouts = [m for m in setup.model.model.modules() if isinstance(m, torch.nn.Dropout)]
    dropouts[0].eval()
    before = [module.training for module in setup.model.model.modules()]
    assert len(set(before)) == 2
    WAYS[way](setup)
    assert [module.training for module in setup.model.model.modules()] == before
