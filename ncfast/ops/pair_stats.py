"""Sums, extremes and histograms of functions of every pair of points."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..reference import pair_stats as reference
from ._definition import Arguments, Output, define, define_backward
from ._metadata import not_accumulator, not_dtype, not_shape, unreadable


def _outputs(a: Arguments) -> list[Output]:
    functions = len(a.kinds)
    bins = 0 if a.edges is None else a.edges.shape[1] - 1
    return [
        Output((functions, 6), torch.float64),
        Output((functions, bins), torch.int64),
        Output((functions,), torch.int64),
    ]


def _rejects(a: Arguments) -> str:
    n, edges = len(a.kinds), a.edges
    if edges is not None and (edges.ndim != 2 or edges.shape[0] != n or edges.shape[1] < 2):
        return f"edges is {tuple(edges.shape)}, not ({n}, 2 or more)"
    if len(a.targets) != n:
        return f"targets holds {len(a.targets)} values for {n} kinds"
    return _rejects_points(a) or not_dtype(torch.float64, edges=edges)


def _rejects_points(a: Arguments) -> str:
    if len(a.powers) != len(a.kinds):
        return f"powers holds {len(a.powers)} values for {len(a.kinds)} kinds"
    if a.variances is None and "cdnv" in [reference.KINDS[kind] for kind in a.kinds]:
        return "cdnv needs variances"
    return (
        not_accumulator(center=a.center)
        or unreadable(a.center.dtype, points=a.points)
        or not_dtype(torch.int64, index=a.index)
        or not_dtype(torch.float64, variances=a.variances)
        or not_shape(
            ("variances", a.variances, (a.points.shape[0],)),
            ("center", a.center, (a.points.shape[1],)),
        )
    )


def _backward_rejects(a: Arguments) -> str:
    return (
        _rejects_points(a)
        or not_dtype(torch.float64, grad=a.grad)
        or not_dtype(torch.float64, stats=a.stats)
        or not_shape(("grad", a.grad, (len(a.kinds), 6)), ("stats", a.stats, (len(a.kinds), 6)))
    )


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _points(a: Arguments) -> tuple[Any, ...]:
    variances, center = _contiguous(a.variances), a.center.contiguous()
    return a.points, variances, center, a.index, list(a.kinds), list(a.powers)


def _kernel_arguments(a: Arguments) -> tuple[Any, ...]:
    # A stable schema has no list of floats: targets go as a tensor.
    targets = torch.tensor(a.targets, dtype=torch.float64)
    return *_points(a), targets, _contiguous(a.edges)


define(
    "pair_stats(Tensor points, Tensor? variances, Tensor center, Tensor? index, Tensor? edges, "
    "int[] kinds, int[] powers, float[] targets) "
    "-> (Tensor stats, Tensor histogram, Tensor coincident)",
    outputs=_outputs,
    rejects=_rejects,
    reference=reference.pair_stats,
    kernel_arguments=_kernel_arguments,
)
define_backward(
    "pair_stats_backward(Tensor grad, Tensor points, Tensor? variances, Tensor center, "
    "Tensor? index, Tensor stats, int[] kinds, int[] powers, bool needs_points, "
    "bool needs_variances, bool needs_center) "
    "-> (Tensor grad_points, Tensor grad_variances, Tensor grad_center)",
    rejects=_backward_rejects,
    reference=reference.pair_stats_backward,
    kernel_arguments=lambda a: (a.grad.contiguous(), a.stats.contiguous(), *_points(a)),
    indexed="points variances",
)
