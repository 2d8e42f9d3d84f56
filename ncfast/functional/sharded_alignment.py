"""Cosines of the rows of a head that lie on several ranks with points that each rank has whole.

Each rank computes its own rows' cosines; they meet in an all-reduce of [K]. Backward, the gradients
to the points meet in one of their size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..shards import Meeting, VocabularyShard, all_reduce
from .sharded_argmax import own_index

__all__ = ["OwnRows", "placed_columns", "rows_of", "sharded_alignment"]


@dataclass(frozen=True)
class OwnRows:
    """Say which of K rows are this rank's."""

    points: slice | Tensor  # Which of the points go with the rows of ``weight``
    index: Tensor | None  # Which of these rows take part, None for all
    places: slice | Tensor  # Where their results stand among K
    count: int  # K


def rows_of(op: str, shard: VocabularyShard, index: Tensor | None) -> OwnRows:
    """Return the rows of ``index`` that are this rank's; of all V if it is None."""
    own = slice(shard.vocab_start, shard.vocab_start + shard.rows)
    if index is None:
        return OwnRows(own, None, own, shard.num_classes)
    places, rows = own_index(op, shard, index)
    return OwnRows(own, rows, places, index.numel())


def sharded_alignment(
    met: Meeting, weight: Tensor, points: Tensor, center: Tensor, own: OwnRows
) -> Tensor:
    """Return cosines [K], the same on every rank, with gradients to all three tensors.

    Args:
        met: In which the ranks have agreed, on what needs a gradient too.
        weight: This rank's rows.
        points: All points, the same on every rank.
        center: [D], of the dtype sums are kept in; the same on every rank.
        own: Which rows are this rank's.
    """
    cosines: Tensor = _Alignment.apply(weight, points, center, own, met)
    return cosines


class _Alignment(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, points: Tensor, center: Tensor, own: OwnRows, met: Meeting
    ) -> Tensor:
        ctx.save_for_backward(weight, points, center)
        ctx.own, ctx.met = own, met
        error: Exception | None = None
        cosines = center.new_zeros(own.count)
        try:
            if weight.shape[0] and (own.index is None or own.index.numel()):
                arguments = (weight, points[own.points], center, own.index)
                cosines[own.places] = torch.ops.ncfast.alignment(*arguments)
        except (ValueError, RuntimeError) as found:
            error = found
        met.share(error)
        return all_reduce(met.op, cosines, met.groups, what="cosines")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        weight, points, center = ctx.saved_tensors
        own, met = ctx.own, ctx.met
        needs_weight, needs_points, needs_center = ctx.needs_input_grad[:3]
        met.require_the_same_gradients(grad[:, None], met.groups)
        found = torch.zeros_like(weight), points.new_zeros(0), torch.zeros_like(center)
        grad_points = torch.zeros_like(points) if needs_points else None
        if weight.shape[0] and (own.index is None or own.index.numel()):
            arguments = (weight, points[own.points], center, own.index)
            found = torch.ops.ncfast.alignment_backward(
                grad[own.places].contiguous(), *arguments, *ctx.needs_input_grad[:3]
            )
            if grad_points is not None:
                grad_points[own.points] = found[1]
        grad_center = found[2] if needs_center else None
        for whole in (grad_points, grad_center):
            if whole is not None:
                all_reduce(met.op, whole, met.groups, what="gradients of points")
        return found[0] if needs_weight else None, grad_points, grad_center, None, None


class _Placed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, columns: Tensor, own: OwnRows, met: Meeting) -> Tensor:
        ctx.own = own
        whole = columns.new_zeros(columns.shape[0], own.count)
        whole[:, own.places] = columns
        return all_reduce(met.op, whole, met.groups, what="columns of rows")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad[:, ctx.own.places], None, None


def placed_columns(met: Meeting, columns: Tensor, own: OwnRows) -> Tensor:
    """Return [C, K] of every row from [C, k] of this rank's own, with gradients to them."""
    whole: Tensor = _Placed.apply(columns, own, met)
    return whole
