"""Scatter of tokens about the mean of their class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import native
from ..reference import within_class_scatter as reference
from ._register import define, no_double_backward, not_dtype, not_shape, unreadable


def _fake(x: Tensor, y: Tensor, means: Tensor) -> Tensor:
    return x.new_empty((x.shape[1], x.shape[1]), dtype=torch.float64)


def _cpu(x: Tensor, y: Tensor, means: Tensor) -> Tensor:
    # Zeros, not allocate(): chunks are added to it.
    scatter = torch.zeros((x.shape[1],) * 2, dtype=torch.float64, device=x.device)
    native.call("within_class_scatter", x, y, means.contiguous(), scatter)
    return scatter


def _cpu_accepts(x: Tensor, y: Tensor, means: Tensor) -> str:
    if means.dtype not in (torch.float32, torch.float64):
        return f"means is {means.dtype}, not float32 or float64"
    return (
        unreadable(means.dtype, x=x)
        or not_dtype(torch.int64, y=y)
        or not_shape(("y", y, (x.shape[0],)), ("means", means, (means.shape[0], x.shape[1])))
    )


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> Any:
    needs_x, _, needs_means = ctx.needs_input_grad
    grad_x, grad_means = torch.ops.ncfast.within_class_scatter_backward(
        grad, *ctx.saved_tensors, needs_x, needs_means
    )
    return grad_x if needs_x else None, None, grad_means if needs_means else None


def _outputs(x: Tensor, means: Tensor, needs_x: bool, needs_means: bool) -> list[tuple[int, ...]]:
    # A gradient nobody asked for is an empty tensor: the schema's arity never changes.
    return [
        tuple(x.shape) if needs_x else (0, x.shape[1]),
        tuple(means.shape) if needs_means else (0, means.shape[1]),
    ]


def _backward_fake(
    grad: Tensor, x: Tensor, y: Tensor, means: Tensor, needs_x: bool, needs_means: bool
) -> tuple[Tensor, Tensor]:
    shape_x, shape_means = _outputs(x, means, needs_x, needs_means)
    return x.new_empty(shape_x), means.new_empty(shape_means)


def _backward_cpu(
    grad: Tensor, x: Tensor, y: Tensor, means: Tensor, needs_x: bool, needs_means: bool
) -> tuple[Tensor, Tensor]:
    shape_x, shape_means = _outputs(x, means, needs_x, needs_means)
    grad_x = native.allocate(shape_x, x.dtype, x.device)
    grad_means = native.allocate(shape_means, means.dtype, x.device)
    native.call(
        "within_class_scatter_backward",
        grad.contiguous(),
        x,
        y,
        means.contiguous(),
        grad_x if needs_x else None,
        grad_means if needs_means else None,
    )
    return grad_x, grad_means


def _backward_cpu_accepts(
    grad: Tensor, x: Tensor, y: Tensor, means: Tensor, needs_x: bool, needs_means: bool
) -> str:
    return (
        _cpu_accepts(x, y, means)
        or not_dtype(torch.float64, grad=grad)
        or not_shape(("grad", grad, (x.shape[1], x.shape[1])))
    )


define(
    "within_class_scatter(Tensor x, Tensor y, Tensor means) -> Tensor",
    fake=_fake,
    reference=reference.within_class_scatter,
    cpu=_cpu,
    cpu_accepts=_cpu_accepts,
    setup_context=_setup_context,
    backward=_backward,
)
define(
    "within_class_scatter_backward(Tensor grad, Tensor x, Tensor y, Tensor means, bool needs_x, "
    "bool needs_means) -> (Tensor, Tensor)",
    fake=_backward_fake,
    reference=reference.within_class_scatter_backward,
    cpu=_backward_cpu,
    cpu_accepts=_backward_cpu_accepts,
    **no_double_backward("within_class_scatter"),
)
