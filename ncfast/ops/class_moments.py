"""Counts, means and spreads of classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import native
from ..reference import class_moments as reference
from ._register import (
    accumulation_dtype,
    define,
    no_double_backward,
    not_dtype,
    not_shape,
    unreadable,
)


def _fake(x: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    dtype = accumulation_dtype(x)
    return (
        y.new_empty((num_classes,)),
        x.new_empty((num_classes, x.shape[1]), dtype=dtype),
        x.new_empty((num_classes,), dtype=dtype),
    )


def _cpu(x: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    dtype = accumulation_dtype(x)
    counts = native.allocate((num_classes,), torch.int64, x.device)
    means = native.allocate((num_classes, x.shape[1]), dtype, x.device)
    m2 = native.allocate((num_classes,), dtype, x.device)
    native.call("class_moments", x, y, counts, means, m2)
    return counts, means, m2


def _cpu_accepts(x: Tensor, y: Tensor, num_classes: int) -> str:
    return (
        unreadable(torch.float64, x=x)
        or not_dtype(torch.int64, y=y)
        or not_shape(("x", x, (x.shape[0], x.shape[-1])), ("y", y, (x.shape[0],)))
    )


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    x, y, _ = inputs
    counts, means, _ = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(counts)
    ctx.save_for_backward(x, y, counts, means)


def _backward(ctx: Any, _: Any, grad_means: Tensor | None, grad_m2: Tensor | None) -> Any:
    x, y, counts, means = ctx.saved_tensors
    if grad_means is None and grad_m2 is None:
        return None, None, None
    grad_x = torch.ops.ncfast.class_moments_backward(grad_means, grad_m2, x, y, counts, means)
    return grad_x, None, None


def _backward_fake(
    grad_means: Tensor | None,
    grad_m2: Tensor | None,
    x: Tensor,
    y: Tensor,
    counts: Tensor,
    means: Tensor,
) -> Tensor:
    return x.new_empty(x.shape)


def _backward_cpu(
    grad_means: Tensor | None,
    grad_m2: Tensor | None,
    x: Tensor,
    y: Tensor,
    counts: Tensor,
    means: Tensor,
) -> Tensor:
    grad_x = native.allocate(tuple(x.shape), x.dtype, x.device)
    spread = None if grad_m2 is None else grad_m2.contiguous()
    args = (x, y, counts.contiguous(), means.contiguous(), grad_x)
    native.call("class_moments_backward", grad_means, spread, *args)
    return grad_x


def _backward_cpu_accepts(
    grad_means: Tensor | None,
    grad_m2: Tensor | None,
    x: Tensor,
    y: Tensor,
    counts: Tensor,
    means: Tensor,
) -> str:
    return (
        unreadable(means.dtype, x=x)
        or not_dtype(torch.int64, y=y, counts=counts)
        or not_dtype(means.dtype, grad_means=grad_means, grad_m2=grad_m2)
        or not_shape(
            ("y", y, (x.shape[0],)),
            ("means", means, (counts.shape[0], x.shape[1])),
            ("grad_means", grad_means, tuple(means.shape)),
            ("grad_m2", grad_m2, tuple(counts.shape)),
        )
    )


define(
    "class_moments(Tensor x, Tensor y, SymInt num_classes) -> (Tensor, Tensor, Tensor)",
    fake=_fake,
    reference=reference.class_moments,
    cpu=_cpu,
    cpu_accepts=_cpu_accepts,
    setup_context=_setup_context,
    backward=_backward,
)
define(
    "class_moments_backward(Tensor? grad_means, Tensor? grad_m2, Tensor x, Tensor y, "
    "Tensor counts, Tensor means) -> Tensor",
    fake=_backward_fake,
    reference=reference.class_moments_backward,
    cpu=_backward_cpu,
    cpu_accepts=_backward_cpu_accepts,
    **no_double_backward("class_moments"),
)
