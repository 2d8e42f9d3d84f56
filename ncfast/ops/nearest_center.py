"""The nearest class mean for each token: the kernel of linear_argmax."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native
from ..reference import nearest_center as reference
from ._register import accumulation_dtype, define, not_dtype, not_shape, unreadable


def _fake(x: Tensor, means: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor]:
    tokens = (x.shape[0],)
    return (
        x.new_empty(tokens, dtype=torch.int64),
        x.new_empty(tokens, dtype=accumulation_dtype(x, means)),
    )


def _cpu(x: Tensor, means: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor]:
    classes = native.allocate((x.shape[0],), torch.int64, x.device)
    margins = native.allocate((x.shape[0],), accumulation_dtype(x, means), x.device)
    native.call("nearest_center", x, means, index, classes, margins)
    return classes, margins


def _cpu_accepts(x: Tensor, means: Tensor, index: Tensor | None) -> str:
    return (
        unreadable(accumulation_dtype(x, means), x=x, means=means)
        or not_dtype(torch.int64, index=index)
        or not_shape(("means", means, (means.shape[0], x.shape[1])))
    )


define(
    "nearest_center(Tensor x, Tensor means, Tensor? index) -> (Tensor, Tensor)",
    fake=_fake,
    reference=reference.nearest_center,
    cpu=_cpu,
    cpu_accepts=_cpu_accepts,
)
