"""The class of highest score for each token."""

from __future__ import annotations

from typing import Any

import torch

from ..reference import linear_argmax as reference
from ._definition import Arguments, Output, define
from ._metadata import accumulation_dtype, not_dtype, not_shape, unreadable


def _dtype(a: Arguments) -> torch.dtype:
    return accumulation_dtype(a.x, a.head_weight, a.head_bias)


def _outputs(a: Arguments) -> list[Output]:
    tokens = (a.x.shape[0],)
    return [Output(tokens, torch.int64), Output(tokens, _dtype(a))]


def _rejects(a: Arguments) -> str:
    classes = a.head_weight.shape[0]
    return (
        unreadable(_dtype(a), x=a.x, head_weight=a.head_weight, head_bias=a.head_bias)
        or not_dtype(torch.int64, index=a.index)
        or not_shape(
            ("head_weight", a.head_weight, (classes, a.x.shape[1])),
            ("head_bias", a.head_bias, (classes,)),
        )
    )


def _kernel_arguments(a: Arguments) -> tuple[Any, ...]:
    bias = None if a.head_bias is None else a.head_bias.to(_dtype(a)).contiguous()
    return a.x, a.head_weight, bias, a.index


define(
    "linear_argmax(Tensor x, Tensor head_weight, Tensor? head_bias, Tensor? index) "
    "-> (Tensor classes, Tensor margins)",
    outputs=_outputs,
    rejects=_rejects,
    reference=reference.linear_argmax,
    kernel_arguments=_kernel_arguments,
)
