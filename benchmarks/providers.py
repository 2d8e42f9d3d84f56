"""Who is timed: ncfast's backends, the torch code a good engineer would write, the predecessor."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import ncfast
import ncfast.functional as F

from .cases import state

Inputs = dict[str, Any]
Prepared = Callable[[], Any]  # one call, on inputs made ready outside the timed part

# The predecessor multiplies one-hot rows, this many tokens at a time (its default batch).
ONE_HOT_TOKENS = 2_048


def _ncfast(backend: str, op: str, inputs: Inputs) -> Prepared:
    x, y, means = inputs["x"], inputs["y"], inputs["means"]
    counts, running, m2 = state(inputs)
    calls: dict[str, Prepared] = {
        "accumulate_class_moments_": lambda: _accumulated(counts, running, m2, None, x, y),
        "class_moments": lambda: F.class_moments(x, y, inputs["num_classes"]),
        "within_class_scatter": lambda: F.within_class_scatter(x, y, means),
        "between_class_scatter": lambda: F.between_class_scatter(means),
    }
    if op == "accumulate_with_scatter":
        scatter = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
        calls[op] = lambda: _accumulated(counts, running, m2, scatter, x, y)
    if op == "alignment":
        calls[op] = _alignment(backend, inputs)
    if op == "pair_stats":
        calls[op] = _pair_stats(inputs)
    if op == "nearest_center_and_linear_argmax":
        calls[op] = lambda: (
            F.nearest_center(x, means)[0],
            F.linear_argmax(x, inputs["head_weight"])[0],
        )

    def call() -> Any:
        with ncfast.use_backend(backend):
            return calls[op]()

    return call


def _accumulated(
    counts: Tensor, means: Tensor, m2: Tensor, scatter: Tensor | None, x: Tensor, y: Tensor
) -> tuple[Tensor, ...]:
    F.accumulate_class_moments_(counts, means, m2, scatter, x, y)
    return (means,) if scatter is None else (means, scatter)


def _alignment(backend: str, inputs: Inputs) -> Prepared:
    """Forward and backward, the gradients written into memory that is already there."""
    w, points, center = inputs["head_weight"], inputs["means"], inputs["center"]
    given = (torch.empty_like(w), torch.empty_like(points), torch.empty_like(center))

    def native() -> Any:
        cosines = torch.ops.ncfast.alignment(w, points, center, None)
        arguments = (inputs["grad"], w, points, center, None, *given)
        ncfast.native.call("alignment_backward", *arguments)
        return cosines, *given

    def reference() -> Any:
        cosines = torch.ops.ncfast.alignment(w, points, center, None)
        grads = torch.ops.ncfast.alignment_backward(
            inputs["grad"], w, points, center, None, True, True, True
        )
        return cosines, *grads

    return native if backend == "cpu" else reference


def _pair_stats(inputs: Inputs) -> Prepared:
    points, variances = inputs["means"], inputs["variances"]
    return lambda: F.pair_stats(points, variances, kinds=("cdnv", "log_distance"))


def _torch(op: str, inputs: Inputs) -> Prepared | None:
    """Write the op as a good engineer would in plain torch."""
    x, y, means = inputs["x"], inputs["y"], inputs["means"]
    classes, width = inputs["num_classes"], x.shape[1]
    counts, running, _ = state(inputs)

    def accumulate() -> Any:
        # Sums only: index_add_ has no spread, so this does less than the op.
        running.index_add_(0, y, x.float())
        counts.index_add_(0, y, torch.ones_like(y))
        return (running / counts.clamp(min=1)[:, None],) if inputs.get("check") else (running,)

    def moments() -> Any:
        wide = x.float()
        n = torch.bincount(y, minlength=classes)
        mu = torch.zeros(classes, width).index_add_(0, y, wide) / n.clamp(min=1)[:, None]
        spread = (wide - mu[y]).square().sum(1)
        return n, mu, torch.zeros(classes).index_add_(0, y, spread)

    def scatter() -> Any:
        residuals = x.float() - means[y]
        return residuals.T @ residuals

    def between() -> Any:
        centred = means - means.mean(0)
        return centred.T @ centred

    def align() -> Any:
        w = inputs["head_weight"].detach().requires_grad_()
        p = means.detach().requires_grad_()
        c = inputs["center"].detach().requires_grad_()
        cosines = torch.nn.functional.cosine_similarity(w, p - c)
        cosines.backward(inputs["grad"])
        return cosines.detach(), w.grad, p.grad, c.grad

    def decide() -> Any:
        nearest, best = [], []
        for part in x.split(1_024):
            nearest.append((part @ means.T - means.square().sum(1) / 2).argmax(1))
            best.append((part @ inputs["head_weight"].T).argmax(1))
        return torch.cat(nearest), torch.cat(best)

    table: dict[str, Prepared] = {
        "accumulate_class_moments_": accumulate,
        "class_moments": moments,
        "within_class_scatter": scatter,
        "between_class_scatter": between,
        "alignment": align,
        "nearest_center_and_linear_argmax": decide,
    }
    return table.get(op)


def _one_hot(op: str, inputs: Inputs) -> Prepared | None:
    """Run the predecessor's algorithm, written from its description: boolean one-hot products."""
    x, y = inputs["x"].float(), inputs["y"]
    classes = inputs["num_classes"]
    everyone = torch.arange(classes)

    def sums() -> Any:
        totals, counts = torch.zeros(classes, x.shape[1]), torch.zeros(classes)
        for tokens, labels in zip(x.split(ONE_HOT_TOKENS), y.split(ONE_HOT_TOKENS), strict=True):
            member = (labels[:, None] == everyone).float()
            totals += member.T @ tokens
            counts += member.sum(0)
        return (totals / counts.clamp(min=1)[:, None],)

    def moments() -> Any:
        (means,) = sums()
        counts = torch.bincount(y, minlength=classes)
        spread = torch.zeros(classes)
        for tokens, labels in zip(x.split(ONE_HOT_TOKENS), y.split(ONE_HOT_TOKENS), strict=True):
            member = (labels[:, None] == everyone).float()
            spread += member.T @ (tokens - means[labels]).square().sum(1)
        return counts, means, spread

    return {"accumulate_class_moments_": sums, "class_moments": moments}.get(op)


def providers() -> dict[str, Callable[[str, Inputs], Prepared | None]]:
    """Return everyone who can be timed, by name; a provider without an op returns None for it."""
    table: dict[str, Callable[[str, Inputs], Prepared | None]] = {
        "cpu": lambda op, inputs: _ncfast("cpu", op, inputs),
        "reference": lambda op, inputs: _ncfast("reference", op, inputs),
        "torch": _torch,
        f"one-hot ({ONE_HOT_TOKENS:,} tokens)": _one_hot,
    }
    if importlib.util.find_spec("neural_collapse") is not None:
        from .predecessor import prepare

        table["neural_collapse"] = prepare
    return table
