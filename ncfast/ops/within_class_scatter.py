"""Scatter of tokens about the mean of their class."""

from __future__ import annotations

import torch

from ..reference import within_class_scatter as reference
from ._definition import Arguments, Output, define, define_backward
from ._metadata import not_accumulator, not_dtype, not_shape, unreadable


def _rejects(a: Arguments) -> str:
    return (
        not_accumulator(means=a.means)
        or unreadable(a.means.dtype, x=a.x)
        or not_dtype(torch.int64, y=a.y)
        or not_shape(
            ("y", a.y, (a.x.shape[0],)), ("means", a.means, (a.means.shape[0], a.x.shape[1]))
        )
    )


def _backward_rejects(a: Arguments) -> str:
    return (
        _rejects(a)
        or not_dtype(torch.float64, grad=a.grad)
        or not_shape(("grad", a.grad, (a.x.shape[1], a.x.shape[1])))
    )


define(
    "within_class_scatter(Tensor x, Tensor y, Tensor means) -> Tensor scatter",
    # Zeros: chunks are added to it.
    outputs=lambda a: [Output((a.x.shape[1],) * 2, torch.float64, zeros=True)],
    rejects=_rejects,
    reference=reference.within_class_scatter,
    contiguous="means",
)
define_backward(
    "within_class_scatter_backward(Tensor grad, Tensor x, Tensor y, Tensor means, bool needs_x, "
    "bool needs_means) -> (Tensor grad_x, Tensor grad_means)",
    rejects=_backward_rejects,
    reference=reference.within_class_scatter_backward,
    contiguous="grad means",
)
