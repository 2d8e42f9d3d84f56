"""The backends of ncfast, called as a user calls them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import functional as F
from .. import losses, native
from ..dispatch import use_backend
from ..metrics import NCReport, neural_collapse
from ..statistics import ClassStatistics
from .contract import Absent, Inputs, Prepare, Prepared
from .head_losses import HeadLoss, of_every_kind
from .moments import PAIR_KINDS, histogram_edges, named_moments

__all__ = ["table"]

# Keys of a report that visit pairs, D x D Grams and the calibrated metrics: "all" means these too.
_COMPLETE = ("cdnv_mean", "log_distance_mean", "interference_mean", "nc1_pinv", "nc1w_mean")


def _function(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] | None = getattr(F, name, None)
    if function is None:
        raise Absent(f"needs ncfast.functional.{name}, which is not there")
    return function


def _accumulate(inputs: Inputs, with_scatter: bool) -> Prepared:
    counts, means, m2, scatter = inputs.state
    running = scatter if with_scatter else None
    found = {"counts": counts, "means": means, "m2": m2}
    if with_scatter:
        found["scatter"] = scatter
    return Prepared(
        lambda: F.accumulate_class_moments_(counts, means, m2, running, inputs.x, y=inputs.y),
        lambda _: found,
    )


def _class_moments(inputs: Inputs) -> Prepared:
    return Prepared(
        lambda: F.class_moments(inputs.x, inputs.y, inputs.classes),
        lambda out: dict(zip(("counts", "means", "m2"), out, strict=True)),
    )


def _scatter(function: Callable[..., Tensor], *arguments: Tensor) -> Prepared:
    return Prepared(lambda: function(*arguments), lambda out: {"scatter": out})


_ALIGNMENT = ("cosines", "grad head_weight", "grad points", "grad center")


def _alignment_into_given(inputs: Inputs) -> Prepared:
    """Write gradients into memory that is there, as an optimiser's step finds it."""
    leaves = inputs.head_weight, inputs.means, inputs.center
    given = tuple(torch.zeros_like(t) for t in leaves)

    def call() -> Tensor:
        cosines = torch.ops.ncfast.alignment(*leaves, None)
        native.call("alignment_backward", inputs.grad, *leaves, None, *given)
        return cosines

    return Prepared(
        call,
        lambda out: dict(zip(_ALIGNMENT, (out, *given), strict=True)),
        note="gradients into given memory",
    )


def _alignment(inputs: Inputs) -> Prepared:
    leaves = inputs.head_weight, inputs.means, inputs.center

    def call() -> tuple[Tensor, ...]:
        cosines = torch.ops.ncfast.alignment(*leaves, None)
        grads = torch.ops.ncfast.alignment_backward(inputs.grad, *leaves, None, True, True, True)
        return cosines, *grads

    return Prepared(
        call,
        lambda out: dict(zip(_ALIGNMENT, out, strict=True)),
        note="gradients in fresh memory",
    )


def _pairs(inputs: Inputs, histograms: bool) -> Prepared:
    function = _function("pair_stats")
    edges = histogram_edges(inputs.width) if histograms else None

    def results(out: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        found = named_moments(PAIR_KINDS, out[0])
        return found | ({"histogram": out[1]} if histograms else {})

    return Prepared(
        lambda: function(inputs.means, inputs.variances, kinds=PAIR_KINDS, edges=edges), results
    )


def _energies(inputs: Inputs) -> Prepared:
    function = _function("pair_stats")
    return Prepared(
        lambda: function(inputs.means, None, kinds=("riesz",)),
        lambda out: {"log sum of Riesz energies": out[0][0, 1]},
    )


def _decide(inputs: Inputs) -> Prepared:
    nearest_center, linear_argmax = _function("nearest_center"), _function("linear_argmax")

    def call() -> tuple[Tensor, ...]:
        nearest = nearest_center(inputs.x, inputs.means)
        return *nearest, *linear_argmax(inputs.x, inputs.head_weight)

    def results(out: tuple[Tensor, ...]) -> dict[str, Tensor]:
        names = ("nearest class", "nearest margin", "linear class", "linear margin")
        return dict(zip(names, out, strict=True)) | {"agreement": (out[0] == out[2]).sum()}

    return Prepared(call, results)


def _all_metrics(inputs: Inputs) -> Prepared:
    stats = ClassStatistics(inputs.classes, inputs.width, dtype=inputs.means.dtype)
    stats.counts, stats.means = inputs.counts, inputs.means
    stats.m2, stats.scatter = inputs.m2, {"all": inputs.scatter}
    lacking = sorted(set(_COMPLETE) - set(_keys()))
    if lacking:
        raise Absent(f"would do less work than all metrics: no {', '.join(lacking)}")

    def results(report: NCReport) -> dict[str, Tensor]:
        return {
            key: torch.tensor(value, dtype=torch.float64)
            for key, value in report.items()
            if math.isfinite(value)  # a note may also explain a value
        }

    return Prepared(lambda: neural_collapse(stats, inputs.head_weight), results)


def _keys() -> list[str]:
    """Return the keys of a report, from two classes of one token each."""
    stats = ClassStatistics(2, 2)
    stats.update(torch.eye(2), torch.arange(2))
    return list(neural_collapse(stats, torch.eye(2)))


def _loss(loss: HeadLoss) -> Prepared:
    def compute(x: Tensor, head_weight: Tensor, y: Tensor, head_bias: Tensor | None) -> Tensor:
        return losses.linear_cross_entropy(
            x, head_weight, y, linear_bias=head_bias, memory_budget=loss.budget
        )

    kept = f"{loss.budget / 2**20:.0f} MiB of logits kept" if loss.budget else "no logits kept"
    return loss.prepared(compute, kept)


_TABLE: dict[str, Prepare] = {
    "accumulate_class_moments_": lambda i: _accumulate(i, with_scatter=False),
    "accumulate_class_moments_ with scatter": lambda i: _accumulate(i, with_scatter=True),
    "class_moments": _class_moments,
    "within_class_scatter": lambda i: _scatter(F.within_class_scatter, i.x, i.y, i.means),
    "between_class_scatter": lambda i: _scatter(F.between_class_scatter, i.means),
    "alignment forward and backward": _alignment,
    "pair_stats": lambda i: _pairs(i, histograms=False),
    "pair_stats with histograms": lambda i: _pairs(i, histograms=True),
    "pair_stats with energies": _energies,
    "nearest_center and linear_argmax": _decide,
    "neural_collapse": _all_metrics,
    **of_every_kind(_loss),
}


def _on(backend: str, prepare: Prepare) -> Prepare:
    def prepared(inputs: Inputs) -> Prepared:
        with use_backend(backend):
            made = prepare(inputs)

        def call() -> Any:
            with use_backend(backend):
                return made.call()

        return Prepared(call, made.results, made.scale, made.note)

    return prepared


def table(backend: str) -> dict[str, Prepare]:
    """Return how one backend does each op; a backend that cannot raises when it is called."""
    own = _TABLE | (
        {"alignment forward and backward": _alignment_into_given} if backend == "cpu" else {}
    )
    return {op: _on(backend, prepare) for op, prepare in own.items()}
