"""Sums, extremes and histograms of functions of every pair of points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import native
from ..reference import pair_stats as reference
from ._register import define, no_double_backward, not_dtype, not_shape, unreadable


def _shapes(kinds: Sequence[int], edges: Tensor | None) -> tuple[tuple[int, ...], ...]:
    bins = 0 if edges is None else edges.shape[1] - 1
    return (len(kinds), 6), (len(kinds), bins), (len(kinds),)


def _fake(
    points: Tensor,
    variances: Tensor | None,
    center: Tensor,
    index: Tensor | None,
    edges: Tensor | None,
    kinds: Sequence[int],
    powers: Sequence[int],
    targets: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor]:
    stats, histogram, coincident = _shapes(kinds, edges)
    return (
        points.new_empty(stats, dtype=torch.float64),
        points.new_empty(histogram, dtype=torch.int64),
        points.new_empty(coincident, dtype=torch.int64),
    )


def _cpu(
    points: Tensor,
    variances: Tensor | None,
    center: Tensor,
    index: Tensor | None,
    edges: Tensor | None,
    kinds: Sequence[int],
    powers: Sequence[int],
    targets: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = _shapes(kinds, edges)
    stats = native.allocate(shapes[0], torch.float64, points.device)
    histogram = native.allocate(shapes[1], torch.int64, points.device)
    coincident = native.allocate(shapes[2], torch.int64, points.device)
    native.call(
        "pair_stats",
        points,
        None if variances is None else variances.contiguous(),
        center.contiguous(),
        index,
        list(kinds),
        list(powers),
        torch.tensor(targets, dtype=torch.float64),
        None if edges is None else edges.contiguous(),
        stats,
        histogram,
        coincident,
    )
    return stats, histogram, coincident


def _cpu_accepts(
    points: Tensor,
    variances: Tensor | None,
    center: Tensor,
    index: Tensor | None,
    edges: Tensor | None,
    kinds: Sequence[int],
    powers: Sequence[int],
    targets: Sequence[float],
) -> str:
    terms = len(kinds)
    if edges is not None and (edges.ndim != 2 or edges.shape[0] != terms or edges.shape[1] < 2):
        return f"edges is {tuple(edges.shape)}, not ({terms}, 2 or more)"
    if len(targets) != terms:
        return f"targets holds {len(targets)} values for {terms} kinds"
    return _unservable(points, variances, center, index, kinds, powers) or not_dtype(
        torch.float64, edges=edges
    )


def _unservable(
    points: Tensor,
    variances: Tensor | None,
    center: Tensor,
    index: Tensor | None,
    kinds: Sequence[int],
    powers: Sequence[int],
) -> str:
    if center.dtype not in (torch.float32, torch.float64):
        return f"center is {center.dtype}, not float32 or float64"
    if len(powers) != len(kinds):
        return f"powers holds {len(powers)} values for {len(kinds)} kinds"
    names = [reference.KINDS[kind] for kind in kinds]
    if variances is None and "cdnv" in names:
        return "cdnv needs variances"
    return (
        unreadable(center.dtype, points=points)
        or not_dtype(torch.int64, index=index)
        or not_dtype(torch.float64, variances=variances)
        or not_shape(
            ("variances", variances, (points.shape[0],)), ("center", center, (points.shape[1],))
        )
    )


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    points, variances, center, index, _, kinds, powers, _ = inputs
    ctx.save_for_backward(points, variances, center, index)
    ctx.kinds, ctx.powers = kinds, powers
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
    needs = ctx.needs_input_grad[:3]
    grads = torch.ops.ncfast.pair_stats_backward(
        grad, *ctx.saved_tensors, ctx.kinds, ctx.powers, *needs
    )
    return (*(g if need else None for g, need in zip(grads, needs, strict=True)), *[None] * 5)


def _outputs(points: Tensor, needs: tuple[bool, bool, bool]) -> list[tuple[int, ...]]:
    # A gradient nobody asked for is an empty tensor: the schema's arity never changes.
    rows, width = points.shape
    return [
        (rows if needs[0] else 0, width),
        (rows if needs[1] else 0,),
        (width if needs[2] else 0,),
    ]


def _backward_fake(
    grad: Tensor,
    points: Tensor,
    variances: Tensor | None,
    center: Tensor,
    index: Tensor | None,
    kinds: Sequence[int],
    powers: Sequence[int],
    needs_points: bool,
    needs_variances: bool,
    needs_center: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = _outputs(points, (needs_points, needs_variances, needs_center))
    return (
        points.new_empty(shapes[0]),
        points.new_empty(shapes[1], dtype=torch.float64),
        center.new_empty(shapes[2]),
    )


def _backward_cpu(
    grad: Tensor,
    points: Tensor,
    variances: Tensor | None,
    center: Tensor,
    index: Tensor | None,
    kinds: Sequence[int],
    powers: Sequence[int],
    needs_points: bool,
    needs_variances: bool,
    needs_center: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    needs = (needs_points, needs_variances, needs_center)
    dtypes = (points.dtype, torch.float64, center.dtype)
    outputs = [
        native.allocate(shape, dtype, points.device)
        for shape, dtype in zip(_outputs(points, needs), dtypes, strict=True)
    ]
    if index is not None:
        for output in outputs[:2]:
            output.zero_()  # rows the index leaves out
    native.call(
        "pair_stats_backward",
        grad.contiguous(),
        points,
        None if variances is None else variances.contiguous(),
        center.contiguous(),
        index,
        list(kinds),
        list(powers),
        *(output if need else None for output, need in zip(outputs, needs, strict=True)),
    )
    return outputs[0], outputs[1], outputs[2]


def _backward_cpu_accepts(
    grad: Tensor,
    points: Tensor,
    variances: Tensor | None,
    center: Tensor,
    index: Tensor | None,
    kinds: Sequence[int],
    powers: Sequence[int],
    *needs: bool,
) -> str:
    return (
        _unservable(points, variances, center, index, kinds, powers)
        or not_dtype(torch.float64, grad=grad)
        or not_shape(("grad", grad, (len(kinds), 6)))
    )


define(
    "pair_stats(Tensor points, Tensor? variances, Tensor center, Tensor? index, Tensor? edges, "
    "int[] kinds, int[] powers, float[] targets) -> (Tensor, Tensor, Tensor)",
    fake=_fake,
    reference=reference.pair_stats,
    cpu=_cpu,
    cpu_accepts=_cpu_accepts,
    setup_context=_setup_context,
    backward=_backward,
)
define(
    "pair_stats_backward(Tensor grad, Tensor points, Tensor? variances, Tensor center, "
    "Tensor? index, int[] kinds, int[] powers, bool needs_points, bool needs_variances, "
    "bool needs_center) -> (Tensor, Tensor, Tensor)",
    fake=_backward_fake,
    reference=reference.pair_stats_backward,
    cpu=_backward_cpu,
    cpu_accepts=_backward_cpu_accepts,
    **no_double_backward("pair_stats"),
)
