"""The class of highest score for each token."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native
from ..reference import linear_argmax as reference
from ._register import accumulation_dtype, define, not_dtype, not_shape, unreadable


def _dtype(x: Tensor, head_weight: Tensor, head_bias: Tensor | None) -> torch.dtype:
    return accumulation_dtype(x, head_weight, *(() if head_bias is None else (head_bias,)))


def _fake(
    x: Tensor, head_weight: Tensor, head_bias: Tensor | None, index: Tensor | None
) -> tuple[Tensor, Tensor]:
    tokens = (x.shape[0],)
    return (
        x.new_empty(tokens, dtype=torch.int64),
        x.new_empty(tokens, dtype=_dtype(x, head_weight, head_bias)),
    )


def _cpu(
    x: Tensor, head_weight: Tensor, head_bias: Tensor | None, index: Tensor | None
) -> tuple[Tensor, Tensor]:
    tokens, dtype = (x.shape[0],), _dtype(x, head_weight, head_bias)
    classes = native.allocate(tokens, torch.int64, x.device)
    margins = native.allocate(tokens, dtype, x.device)
    bias = None if head_bias is None else head_bias.to(dtype).contiguous()
    native.call("linear_argmax", x, head_weight, bias, index, classes, margins)
    return classes, margins


def _cpu_accepts(
    x: Tensor, head_weight: Tensor, head_bias: Tensor | None, index: Tensor | None
) -> str:
    dtype = _dtype(x, head_weight, head_bias)
    return (
        unreadable(dtype, x=x, head_weight=head_weight, head_bias=head_bias)
        or not_dtype(torch.int64, index=index)
        or not_shape(
            ("head_weight", head_weight, (head_weight.shape[0], x.shape[1])),
            ("head_bias", head_bias, (head_weight.shape[0],)),
        )
    )


define(
    "linear_argmax(Tensor x, Tensor head_weight, Tensor? head_bias, Tensor? index) "
    "-> (Tensor, Tensor)",
    fake=_fake,
    reference=reference.linear_argmax,
    cpu=_cpu,
    cpu_accepts=_cpu_accepts,
)
