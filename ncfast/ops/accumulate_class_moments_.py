"""Running counts, means and spreads of classes, updated in place."""

from __future__ import annotations

import torch

from ..reference import accumulate_class_moments_ as reference
from ._definition import Arguments, define
from ._metadata import not_accumulator, not_dtype, not_shape, unreadable


def _rejects(a: Arguments) -> str:
    for name in ("counts", "means", "m2", "scatter"):
        state = getattr(a, name)
        if state is not None and not state.is_contiguous():
            return f"{name} is updated in place and must be contiguous"
    return (
        not_accumulator(means=a.means)
        or unreadable(a.means.dtype, x=a.x)
        or not_dtype(torch.int64, y=a.y, counts=a.counts)
        or not_dtype(torch.float64, m2=a.m2, scatter=a.scatter)
        or not_shape(
            ("y", a.y, (a.x.shape[0],)),
            ("means", a.means, (a.counts.shape[0], a.x.shape[1])),
            ("m2", a.m2, tuple(a.counts.shape)),
            ("scatter", a.scatter, (a.x.shape[1], a.x.shape[1])),
        )
    )


define(
    "accumulate_class_moments_(Tensor(a!) counts, Tensor(b!) means, Tensor(c!) m2, "
    "Tensor(d!)? scatter, Tensor x, Tensor y) -> ()",
    outputs=lambda a: [],
    rejects=_rejects,
    reference=reference.accumulate_class_moments_,
)
