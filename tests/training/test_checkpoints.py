"""A checkpoint of another run changes nothing, and one of an earlier version still loads."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from ncfast import sealed_file
from ncfast.errors import DataError
from ncfast.losses import NC3Regularizer, UniformityRegularizer
from ncfast.training import make_optimizer
from ncfast.training.checkpoints import load_checkpoint, save_checkpoint

STATE = "state.json"


def run(optimizer="AdamW", term=NC3Regularizer, classes=(1, 2, 3), **settings):
    """Return what a checkpoint is made of, after a step."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 6)
    terms = {
        "first": NC3Regularizer(6, 4, [0, 1], means="ema"),
        "second": term(6, 4, list(classes), **{"means": "ema", **settings}),
    }
    made = make_optimizer(model, optimizer)
    x, y = torch.randn(12, 4), torch.arange(12) % 6
    (model(x).sum() + sum(term(x, y, model.weight) for term in terms.values())).backward()
    made.step()
    return model, made, terms, {"seen": torch.ones(3)}


def everything(model, optimizer, terms, accumulated):
    """Copy all of it, and the state of the random numbers."""
    parts = [model.state_dict(), optimizer.state_dict(), accumulated, torch.get_rng_state()]
    return copy.deepcopy([*parts, *(term.state_dict() for term in terms.values())])


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


OTHERS = {
    "classes": (dict(classes=(1, 2, 4)), "term second: class_means.ids: the state is of 3 other"),
    "order": (dict(classes=(3, 2, 1)), "term second: class_means.ids: the state is of 3 other"),
    "means": (dict(means="running"), "term second is DualityRegularizer of ema means there"),
    "term": (dict(term=UniformityRegularizer), "there, UniformityRegularizer of ema means here"),
    "optimizer": (dict(optimizer="Adam"), "optimizer is AdamW there, Adam here"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_differs_in_values_alone_changes_nothing(tmp_path, other):
    settings, said = OTHERS[other]
    found = save_checkpoint(tmp_path, 1, {}, *run())
    here = run(**settings)
    with torch.no_grad():
        here[0].weight.add_(1.0)
        here[2]["first"](torch.randn(4, 4), torch.arange(4), here[0].weight)
    before = everything(*here)
    with pytest.raises(DataError, match=f"checkpoint of another run: .*{said}"):
        load_checkpoint(found, {}, *here)
    assert same(everything(*here), before)


def test_one_of_an_earlier_version_loads(tmp_path):
    saved = run()
    found = save_checkpoint(tmp_path, 1, {}, *saved)
    state = json.loads((found / STATE).read_text())
    del state["kinds"]
    (found / STATE).write_text(sealed_file.dump_json(state))
    here = run()
    here[3]["seen"] = torch.zeros(3, dtype=torch.float64)  # float32 when it was saved
    with torch.no_grad():
        here[0].weight.add_(1.0)
    assert load_checkpoint(found, {}, *here) == 1
    assert torch.equal(here[3]["seen"], torch.ones(3).double())
    here[3]["seen"] = saved[3]["seen"]
    assert same(everything(*here), everything(*saved))


def test_kinds_that_are_none_are_damage(tmp_path):
    found = save_checkpoint(tmp_path, 1, {}, *run())
    state = json.loads((found / STATE).read_text()) | {"kinds": "AdamW"}
    (found / STATE).write_text(sealed_file.dump_json(state))
    with pytest.raises(DataError, match=r"damaged .*the kinds in state.json are no object"):
        load_checkpoint(found, {}, *run())
