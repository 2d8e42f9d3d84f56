"""Counts, means and spreads of classes."""

from __future__ import annotations

import torch

from ..reference import class_moments as reference
from ._definition import Arguments, Output, define, define_backward
from ._metadata import accumulation_dtype, not_dtype, not_shape, unreadable


def _outputs(a: Arguments) -> list[Output]:
    dtype = accumulation_dtype(a.x)
    return [
        Output((a.num_classes,), torch.int64),
        Output((a.num_classes, a.x.shape[1]), dtype),
        Output((a.num_classes,), dtype),
    ]


def _rejects(a: Arguments) -> str:
    return (
        unreadable(torch.float64, x=a.x)
        or not_dtype(torch.int64, y=a.y)
        or not_shape(("x", a.x, (a.x.shape[0], a.x.shape[-1])), ("y", a.y, (a.x.shape[0],)))
    )


def _backward_rejects(a: Arguments) -> str:
    return (
        unreadable(a.means.dtype, x=a.x)
        or not_dtype(torch.int64, y=a.y, counts=a.counts)
        or not_dtype(a.means.dtype, grad_means=a.grad_means, grad_m2=a.grad_m2)
        or not_shape(
            ("y", a.y, (a.x.shape[0],)),
            ("means", a.means, (a.counts.shape[0], a.x.shape[1])),
            ("grad_means", a.grad_means, tuple(a.means.shape)),
            ("grad_m2", a.grad_m2, tuple(a.counts.shape)),
        )
    )


define(
    "class_moments(Tensor x, Tensor y, SymInt num_classes) "
    "-> (Tensor counts, Tensor means, Tensor m2)",
    outputs=_outputs,
    rejects=_rejects,
    reference=reference.class_moments,
    kernel_arguments=lambda a: (a.x, a.y),
)
define_backward(
    "class_moments_backward(Tensor? grad_means, Tensor? grad_m2, Tensor x, Tensor y, "
    "Tensor counts, Tensor means) -> Tensor grad_x",
    rejects=_backward_rejects,
    reference=reference.class_moments_backward,
    contiguous="grad_m2 counts means",
)
