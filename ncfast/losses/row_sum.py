"""A weighted sum of a head's rows, in blocks: no copy of the head in another dtype."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["weighted_row_sum"]

_BLOCK = 4096  # rows that are converted at a time, and added in float32


class _WeightedRowSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        ctx.shape, ctx.dtype = rows.shape, rows.dtype
        total = rows.new_zeros(rows.shape[1], dtype=torch.float64)
        for first in range(0, len(weights), _BLOCK):
            part = weights[first : first + _BLOCK]
            block = rows[first : first + len(part)].to(weights.dtype)
            total += (part @ block).to(torch.float64)
        return total.to(weights.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        rows = grad.new_zeros(ctx.shape, dtype=ctx.dtype)
        for first in range(0, len(weights), _BLOCK):
            part = weights[first : first + _BLOCK]
            rows[first : first + len(part)] = (part[:, None] * grad).to(ctx.dtype)
        return rows, None


def weighted_row_sum(rows: Tensor, weights: Tensor) -> Tensor:
    """Sum w_j rows_j over the first K rows of [V, D], in the weights' dtype.

    Args:
        rows: [V, D] float.
        weights: [K] float32 or float64, K at most V, without a gradient.

    Returns:
        [D] in the weights' dtype, with a gradient to ``rows``; to those after the first K it is 0.

    >>> weighted_row_sum(torch.eye(3), torch.tensor([2.0, 3.0]))
    tensor([2., 3., 0.])
    """
    total: Tensor = _WeightedRowSum.apply(rows, weights)
    return total
