"""The nearest class mean for each token: the kernel of linear_argmax."""

from __future__ import annotations

import torch

from ..reference import nearest_center as reference
from ._definition import Arguments, Output, define
from ._metadata import accumulation_dtype, not_dtype, not_shape, unreadable


def _outputs(a: Arguments) -> list[Output]:
    tokens = (a.x.shape[0],)
    return [Output(tokens, torch.int64), Output(tokens, accumulation_dtype(a.x, a.means))]


def _rejects(a: Arguments) -> str:
    return (
        unreadable(accumulation_dtype(a.x, a.means), x=a.x, means=a.means)
        or not_dtype(torch.int64, index=a.index)
        or not_shape(("means", a.means, (a.means.shape[0], a.x.shape[1])))
    )


define(
    "nearest_center(Tensor x, Tensor means, Tensor? index) -> (Tensor classes, Tensor margins)",
    outputs=_outputs,
    rejects=_rejects,
    reference=reference.nearest_center,
)
