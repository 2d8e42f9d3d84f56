"""Scatter of tokens about the mean of their class."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native
from .grams import gram
from .labels import class_keys, members, segments_of
from .products import symmetric, times_matrix
from .rows import CenteredRows
from .segments import segment_moments

__all__ = ["within_class_scatter", "within_class_scatter_backward"]


def within_class_scatter(x: Tensor, y: Tensor, means: Tensor) -> Tensor:
    """Return the sum of (x_i - mean)(x_i - mean)^T [D, D] over valid tokens, in float64."""
    op = "within_class_scatter"
    keys = class_keys(op, y, means.shape[0])
    scatter = native.allocate((x.shape[1], x.shape[1]), torch.float64, x.device)
    gram(CenteredRows(x, centers=means, keys=keys), scatter, op)
    return scatter


def within_class_scatter_backward(
    grad: Tensor, x: Tensor, y: Tensor, means: Tensor, needs_x: bool, needs_means: bool
) -> tuple[Tensor, Tensor]:
    """Return (x_i - mean) (G + G^T) per token, and minus its sum per class."""
    op, width = "within_class_scatter_backward", x.shape[1]
    matrix = symmetric(grad).float()
    keys = class_keys(op, y, means.shape[0])
    grad_x = native.allocate(tuple(x.shape) if needs_x else (0, width), x.dtype, x.device)
    if needs_x:
        times_matrix(CenteredRows(x, centers=means, keys=keys), matrix, grad_x)
    shape = tuple(means.shape) if needs_means else (0, width)
    grad_means = native.allocate(shape, means.dtype, x.device)
    if needs_means:
        _grad_means(op, x, keys, means, matrix, grad_means.zero_())
    return grad_x, grad_means


def _grad_means(
    op: str, x: Tensor, keys: Tensor, means: Tensor, matrix: Tensor, grad_means: Tensor
) -> None:
    """Write minus (sum of residuals of a class) (G + G^T): one row per class that occurs."""
    num_classes, width = means.shape
    segments = segments_of(keys, num_classes)
    ranks = (segments.counts > 0).cumsum(0)
    classes = members(ranks, min(x.shape[0], num_classes))
    residuals = native.allocate((classes.shape[0], width), torch.float32, x.device)
    spreads = native.allocate((classes.shape[0],), torch.float32, x.device)
    segment_moments(op, x, segments, residuals.zero_(), spreads, slots=ranks - 1, centers=means)
    counts = torch.cat([segments.counts, segments.counts.new_zeros(1)])[classes].double()
    times_matrix(
        CenteredRows(residuals, weights=counts), matrix, grad_means, out_rows=classes, negate=True
    )
