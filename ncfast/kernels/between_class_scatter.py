"""Scatter of class means about a center."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import device_errors, native
from .grams import gram
from .labels import CHECK, check_index
from .launching import launch
from .products import sum_of_rows, symmetric, times_matrix
from .rows import CenteredRows
from .tiles import NOWHERE, report_error

__all__ = ["between_class_scatter", "between_class_scatter_backward"]

OP = "between_class_scatter"


@triton.jit(do_not_specialize=["slot"])
def _check_weights(weights, count, table, slot, ROWS: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    weight = tl.load(weights + rows, mask=rows < count, other=0.0)
    bad = (weight < 0) | (weight - weight != 0)
    report_error(table, slot, tl.min(tl.where(bad, rows, NOWHERE), axis=0))


def _rows(
    means: Tensor, weights: Tensor | None, center: Tensor, index: Tensor | None
) -> CenteredRows:
    check_index(OP, index, means.shape[0])
    return CenteredRows(
        means,
        None if index is None else index.contiguous(),
        centers=center[None],
        weights=None if weights is None else weights.contiguous(),
    )


def between_class_scatter(
    means: Tensor, weights: Tensor | None, center: Tensor, index: Tensor | None
) -> Tensor:
    """Return the weighted sum [D, D] over the rows that `index` names, in float64."""
    rows = _rows(means, weights, center, index)
    if rows.weights is not None:
        message = f"{OP}: weights[{{}}] is negative or not finite"
        launch(
            _check_weights,
            lambda t: (triton.cdiv(rows.count, t["ROWS"]),),
            CHECK,
            *(rows.weights, rows.count, device_errors.table(means.device)),
            device_errors.declare(message),
        )
    scatter = native.allocate((means.shape[1], means.shape[1]), torch.float64, means.device)
    gram(rows, scatter)
    return scatter


def between_class_scatter_backward(
    grad: Tensor,
    means: Tensor,
    weights: Tensor | None,
    center: Tensor,
    index: Tensor | None,
    needs_means: bool,
    needs_center: bool,
) -> tuple[Tensor, Tensor]:
    """Return w_k (mean_k - center) (G + G^T) per row, and minus its sum for the center."""
    rows, matrix, width = _rows(means, weights, center, index), symmetric(grad), means.shape[1]
    shape = tuple(means.shape) if needs_means else (0, width)
    grad_means = native.allocate(shape, means.dtype, means.device)
    if needs_means:
        if index is not None:
            grad_means.zero_()  # rows the index leaves out
        times_matrix(rows, matrix.float(), grad_means, out_rows=rows.index)
    shape = (width,) if needs_center else (0,)
    grad_center = native.allocate(shape, center.dtype, means.device)
    if needs_center:
        grad_center.copy_(-(matrix @ sum_of_rows(rows)))
    return grad_means, grad_center
