"""What a term counts: a call that was rejected not at all, any other once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from ncfast import DataError
from ncfast.losses import (
    ClassMeans,
    DualityRegularizer,
    LambdaSchedule,
    PairWeights,
    UniformityRegularizer,
    WithinClassRegularizer,
)

V, D = 3, 4
TERMS = (DualityRegularizer, WithinClassRegularizer, UniformityRegularizer)


def data() -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    x, head = torch.randn(8, D, generator=g), torch.randn(V, D, generator=g)
    return x, torch.arange(8) % V, head, head[:, 0].clone()


def state(term: torch.nn.Module) -> dict[str, list[Any]]:
    return {name: tensor.tolist() for name, tensor in term.state_dict().items()}


def with_bias() -> DualityRegularizer:
    weights = PairWeights(bias=1.0)
    return DualityRegularizer(V, D, pairs=[[0, 1]], pair_weights=weights, means="running")


def duality() -> DualityRegularizer:
    return DualityRegularizer(V, D, means="ema")


def one_tangent(tensor: torch.Tensor) -> torch.Tensor:
    return forward_ad.make_dual(tensor, torch.ones_like(tensor))


REJECTED: dict[str, Any] = {
    "no bias": (with_bias, lambda x, y, w, b: (x, y, w), ValueError, "needs head_bias"),
    "bias of another size": (with_bias, lambda x, y, w, b: (x, y, w, b[:2]), ValueError, "bias is"),
    "bias, unused": (duality, lambda x, y, w, b: (x, y, w, b[:2]), ValueError, "head_bias is"),
    "whole numbers": (duality, lambda x, y, w, b: (x, y, w.to(torch.int8)), TypeError, "int8"),
    "elsewhere": (duality, lambda x, y, w, b: (x, y, w.to("meta")), ValueError, "on meta"),
    "no head": (duality, lambda x, y, w, b: (x, y, None), TypeError, "head_weight is a NoneType"),
    "tangent": (duality, lambda x, y, w, b: (x, y, one_tangent(w)), NotImplementedError, "forward"),
    "not finite": (duality, lambda x, y, w, b: (x, y, w * torch.inf), DataError, "alignment: head"),
}


@pytest.mark.parametrize("what", REJECTED)
def test_a_rejected_call_is_not_counted(what):
    make, arguments, error, words = REJECTED[what]
    term, x, y, head, bias = make(), *data()
    fresh = state(term)
    with forward_ad.dual_level(), pytest.raises(error, match=words):
        term(*arguments(x, y, head, bias))
    assert state(term) == fresh
    assert torch.equal(term(x, y, head, bias), make()(x, y, head, bias))


@pytest.mark.parametrize("kind", TERMS)
def test_a_step_that_fails_at_its_end_is_not_counted(kind, monkeypatch):
    """Whatever a term calls after its class means may find something to reject."""
    term = kind(V, D, means="running")
    x, y, head, _ = data()
    fresh = state(term)
    monkeypatch.setattr(LambdaSchedule, "at", lambda *a: [][0])
    with pytest.raises(IndexError):
        term(x, y, head)
    assert state(term) == fresh
    monkeypatch.undo()
    term(x, y, head)
    assert term.report() == {"classes": 3, "occurred": 3, "tokens": 8, "calls": 1}


@pytest.mark.parametrize("means", ["batch", "ema"])
@pytest.mark.parametrize("kind", TERMS)
def test_a_transform_of_torch_func_leaves_no_dead_tensor(kind, means):
    term = kind(V, D, means=means)
    x, y, head, _ = data()
    expected = f"{kind.__name__}: called in training mode within a transform of torch.func"
    for call in (
        lambda: torch.func.grad(lambda x: term(x, y, head))(x),
        lambda: torch.func.vmap(lambda x: term(x, y, head))(x[None]),
    ):
        with pytest.raises(RuntimeError, match=f"{expected}.*expected eval"):
            call()
    assert term.report()["calls"] == term.report()["tokens"] == 0
    copy.deepcopy(term)
    assert torch.equal(term(x, y, head), kind(V, D, means=means)(x, y, head))


def test_a_term_that_counts_nothing_may_be_mapped():
    term = DualityRegularizer(V, D, means="ema")
    x, y, head, _ = data()
    term(x, y, head)
    term.eval()
    alone = [term(own, y, head) for own in (x, 2 * x + 1)]
    together = torch.func.vmap(lambda x: term(x, y, head))(torch.stack([x, 2 * x + 1]))
    assert torch.equal(together, torch.stack(alone))
    assert term.last == {}
    copy.deepcopy(term)
    with pytest.raises(RuntimeError, match=r"ClassMeans: called in training mode"):
        torch.func.vmap(lambda x: ClassMeans(V, D)(x, y).means)(x[None])


def replica(module: torch.nn.Module) -> torch.nn.Module:
    """Return what nn.DataParallel makes of a module for one device."""
    copied = module._replicate_for_data_parallel()
    copied._buffers = dict(module._buffers)
    for name, child in module._modules.items():
        copied._modules[name] = replica(child)
    return copied


@pytest.mark.parametrize(
    "settings", [{"means": "ema"}, {"weight": LambdaSchedule(1.0, warmup=2)}], ids=str
)
def test_a_replica_of_data_parallel_would_lose_what_it_counts(settings):
    term = DualityRegularizer(V, D, **settings)
    x, y, head, _ = data()
    with pytest.raises(RuntimeError, match=r"DualityRegularizer: .*replica of nn\.DataParallel"):
        replica(term)(x, y, head)
    assert torch.equal(replica(term.eval())(x, y, head), term(x, y, head))
    plain = DualityRegularizer(V, D)
    assert torch.equal(replica(plain)(x, y, head), plain(x, y, head))
    if "means" in settings:
        with pytest.raises(RuntimeError, match="ClassMeans: called in training mode on a replica"):
            replica(ClassMeans(V, D, means="ema"))(x, y)


def test_a_term_of_head_rows_is_not_counted_again_in_a_backward_pass():
    term = UniformityRegularizer(V, D, of="head")
    head = data()[2].requires_grad_()
    value = checkpoint(lambda head: term(None, None, head), head, use_reentrant=False)
    with pytest.raises(RuntimeError, match="UniformityRegularizer: called within a backward pass"):
        value.backward()
    assert int(term.calls) == 1


@pytest.mark.parametrize("classes", [None, [0, 2]])
@pytest.mark.parametrize("kind", [ClassMeans, *TERMS])
def test_a_label_that_is_no_class_is_told_by_all_classes(kind, classes):
    x, y, head, _ = data()
    y[7] = 7
    arguments = (x, y) if kind is ClassMeans else (x, y, head)
    with pytest.raises(DataError, match=rf"^{kind.__name__}: y\[7\] is 7; .*\[0, 3\)"):
        kind(V, D, classes)(*arguments)
