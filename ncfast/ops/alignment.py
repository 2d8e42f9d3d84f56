"""Cosine of each head row with its centred point."""

from __future__ import annotations

import torch

from ..reference import alignment as reference
from ._definition import Arguments, Output, define, define_backward
from ._metadata import not_accumulator, not_dtype, not_shape, unreadable


def _count(a: Arguments) -> int:
    return (a.points if a.index is None else a.index).shape[0]


def _rejects(a: Arguments) -> str:
    return (
        not_accumulator(center=a.center)
        or unreadable(a.center.dtype, head_weight=a.head_weight, points=a.points)
        or not_dtype(torch.int64, index=a.index)
        or not_shape(
            ("head_weight", a.head_weight, tuple(a.points.shape)),
            ("center", a.center, (a.points.shape[1],)),
        )
    )


def _backward_rejects(a: Arguments) -> str:
    return (
        _rejects(a)
        or not_dtype(a.center.dtype, grad=a.grad)
        or not_shape(("grad", a.grad, (_count(a),)))
    )


define(
    "alignment(Tensor head_weight, Tensor points, Tensor center, Tensor? index) -> Tensor cosines",
    outputs=lambda a: [Output((_count(a),), a.center.dtype)],
    rejects=_rejects,
    reference=reference.alignment,
    contiguous="center",
)
define_backward(
    "alignment_backward(Tensor grad, Tensor head_weight, Tensor points, Tensor center, "
    "Tensor? index, bool needs_head_weight, bool needs_points, bool needs_center) "
    "-> (Tensor grad_head_weight, Tensor grad_points, Tensor grad_center)",
    rejects=_backward_rejects,
    reference=reference.alignment_backward,
    contiguous="grad center",
    indexed="head_weight points",
)
