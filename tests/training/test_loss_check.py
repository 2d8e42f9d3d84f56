"""What is trained is the model's own loss: at the first step, the last, and each evaluation."""

from __future__ import annotations

import re

import pytest
import torch

from ncfast.errors import DataError
from ncfast.finetune.evaluate import perplexity
from ncfast.training import LoopSettings, Training
from ncfast.training.loss_check import TOKENS, check_loss


def training(setup, steps=3):
    settings = LoopSettings(steps, progress=False, metrics_every=0)
    return Training(setup.objective, setup.optimizer, setup.batches, settings)


@pytest.mark.parametrize("kind", ["masked", "causal"])
@pytest.mark.parametrize("length", [8, TOKENS, 60])
def test_a_sound_model_passes_and_nothing_changes(kind, length, setup_run):
    setup = setup_run(kind, weight=0.0)
    model = setup.model
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, model.vocab_size, (3, length), generator=generator)
    labels = torch.where(torch.rand(ids.shape, generator=generator) > 0.6, ids, -100)
    if kind == "causal":
        labels = torch.full_like(ids, -100)
        labels[:, :-1] = ids[:, 1:]
    model.model.train()
    state = torch.get_rng_state()
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    ours, own = check_loss(model, ids, torch.ones_like(ids), labels, "here")
    assert ours == pytest.approx(own, abs=1e-5)
    assert ours > 0
    assert model.model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[n]) for n, v in model.model.state_dict().items())


def test_a_late_label_is_found_and_no_label_is_no_loss(setup_run):
    model = setup_run("masked", weight=0.0).model
    ids = torch.randint(5, model.vocab_size, (2, 60))
    labels = torch.full_like(ids, -100)
    ours, _ = check_loss(model, ids, torch.ones_like(ids), labels, "here")
    assert ours != ours
    labels[1, 55] = 7
    ours, own = check_loss(model, ids, torch.ones_like(ids), labels, "here")
    assert ours == pytest.approx(own, abs=1e-5)


def _wrong_from(setup, call):
    """Let the model's own loss double from a call of its forward pass on that gets labels."""
    inner, seen = setup.model.model, []
    forward = type(inner).forward

    def other(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        if kwargs.get("labels") is not None:
            seen.append(1)
            output.loss = output.loss * (2 if len(seen) >= call else 1)
        return output

    inner.forward = other.__get__(inner)


@pytest.mark.parametrize(("call", "step"), [(1, 1), (2, 3)])
def test_a_run_stops_at_the_first_and_the_last_step_with_both_numbers(call, step, setup_run):
    setup = setup_run("masked", weight=0.0)
    run = training(setup)
    _wrong_from(setup, call)
    with pytest.raises(DataError, match=rf"^step {step}: the loss of \d+ tokens") as error:
        run.run()
    ours, own = (float(x) for x in re.findall(r"(\d+\.\d+)(?:,| by)", str(error.value))[:2])
    assert own == pytest.approx(2 * ours, rel=1e-3)
    assert run.step == step - 1


def test_an_evaluation_stops_too(setup_run):
    setup = setup_run("masked", weight=0.0)
    perplexity(setup.model, setup.batches)
    _wrong_from(setup, 1)
    with pytest.raises(DataError, match=r"^evaluation: the loss of"):
        perplexity(setup.model, setup.batches)
