"""Running counts, means and spreads of classes, updated in place."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native
from ..reference import accumulate_class_moments_ as reference
from ._register import define, not_dtype, not_shape, unreadable


def _fake(
    counts: Tensor, means: Tensor, m2: Tensor, scatter: Tensor | None, x: Tensor, y: Tensor
) -> None:
    return None


def _cpu(
    counts: Tensor, means: Tensor, m2: Tensor, scatter: Tensor | None, x: Tensor, y: Tensor
) -> None:
    native.call("accumulate_class_moments_", counts, means, m2, scatter, x, y)


def _cpu_accepts(
    counts: Tensor, means: Tensor, m2: Tensor, scatter: Tensor | None, x: Tensor, y: Tensor
) -> str:
    states = {"counts": counts, "means": means, "m2": m2, "scatter": scatter}
    for name, state in states.items():
        if state is not None and not state.is_contiguous():
            return f"{name} is updated in place and must be contiguous"
    if means.dtype not in (torch.float32, torch.float64):
        return f"means is {means.dtype}, not float32 or float64"
    return (
        unreadable(means.dtype, x=x)
        or not_dtype(torch.int64, y=y, counts=counts)
        or not_dtype(torch.float64, m2=m2, scatter=scatter)
        or not_shape(
            ("y", y, (x.shape[0],)),
            ("means", means, (counts.shape[0], x.shape[1])),
            ("m2", m2, tuple(counts.shape)),
            ("scatter", scatter, (x.shape[1], x.shape[1])),
        )
    )


define(
    "accumulate_class_moments_(Tensor(a!) counts, Tensor(b!) means, Tensor(c!) m2, "
    "Tensor(d!)? scatter, Tensor x, Tensor y) -> ()",
    fake=_fake,
    reference=reference.accumulate_class_moments_,
    cpu=_cpu,
    cpu_accepts=_cpu_accepts,
)
