"""Scatter of class means about a center."""

from __future__ import annotations

import torch

from ..reference import between_class_scatter as reference
from ._definition import Arguments, Output, define, define_backward
from ._metadata import not_accumulator, not_dtype, not_shape, unreadable


def _rejects(a: Arguments) -> str:
    return (
        not_accumulator(center=a.center)
        or unreadable(a.center.dtype, means=a.means)
        or not_dtype(torch.float64, weights=a.weights)
        or not_dtype(torch.int64, index=a.index)
        or not_shape(("center", a.center, (a.means.shape[1],)))
        or not_shape(("weights", a.weights, (a.means if a.index is None else a.index).shape[:1]))
    )


def _backward_rejects(a: Arguments) -> str:
    return (
        _rejects(a)
        or not_dtype(torch.float64, grad=a.grad)
        or not_shape(("grad", a.grad, (a.means.shape[1], a.means.shape[1])))
    )


define(
    "between_class_scatter(Tensor means, Tensor? weights, Tensor center, Tensor? index) "
    "-> Tensor scatter",
    # Zeros: chunks are added to it.
    outputs=lambda a: [Output((a.means.shape[1],) * 2, torch.float64, zeros=True)],
    rejects=_rejects,
    reference=reference.between_class_scatter,
    contiguous="weights center",
)
define_backward(
    "between_class_scatter_backward(Tensor grad, Tensor means, Tensor? weights, Tensor center, "
    "Tensor? index, bool needs_means, bool needs_center) "
    "-> (Tensor grad_means, Tensor grad_center)",
    rejects=_backward_rejects,
    reference=reference.between_class_scatter_backward,
    contiguous="grad weights center",
    indexed="means",
)
