"""Scatter of class means about a center."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import native
from ..reference import between_class_scatter as reference
from ._register import define, no_double_backward, not_dtype, not_shape, unreadable


def _fake(means: Tensor, weights: Tensor | None, center: Tensor, index: Tensor | None) -> Tensor:
    return means.new_empty((means.shape[1], means.shape[1]), dtype=torch.float64)


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _cpu(means: Tensor, weights: Tensor | None, center: Tensor, index: Tensor | None) -> Tensor:
    # Zeros, not allocate(): chunks are added to it.
    scatter = torch.zeros((means.shape[1],) * 2, dtype=torch.float64, device=means.device)
    args = (means, _contiguous(weights), center.contiguous(), index, scatter)
    native.call("between_class_scatter", *args)
    return scatter


def _cpu_accepts(
    means: Tensor, weights: Tensor | None, center: Tensor, index: Tensor | None
) -> str:
    if center.dtype not in (torch.float32, torch.float64):
        return f"center is {center.dtype}, not float32 or float64"
    return (
        unreadable(center.dtype, means=means)
        or not_dtype(torch.float64, weights=weights)
        or not_dtype(torch.int64, index=index)
        or not_shape(("center", center, (means.shape[1],)))
        or not_shape(("weights", weights, (means if index is None else index).shape[:1]))
    )


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    means, weights, center, index = inputs
    ctx.save_for_backward(means, weights, center, index)


def _backward(ctx: Any, grad: Tensor) -> Any:
    needs_means, _, needs_center, _ = ctx.needs_input_grad
    grad_means, grad_center = torch.ops.ncfast.between_class_scatter_backward(
        grad, *ctx.saved_tensors, needs_means, needs_center
    )
    return grad_means if needs_means else None, None, grad_center if needs_center else None, None


def _outputs(means: Tensor, needs_means: bool, needs_center: bool) -> list[tuple[int, ...]]:
    # A gradient nobody asked for is an empty tensor: the schema's arity never changes.
    return [
        tuple(means.shape) if needs_means else (0, means.shape[1]),
        (means.shape[1],) if needs_center else (0,),
    ]


def _backward_fake(
    grad: Tensor,
    means: Tensor,
    weights: Tensor | None,
    center: Tensor,
    index: Tensor | None,
    needs_means: bool,
    needs_center: bool,
) -> tuple[Tensor, Tensor]:
    shape_means, shape_center = _outputs(means, needs_means, needs_center)
    return means.new_empty(shape_means), center.new_empty(shape_center)


def _backward_cpu(
    grad: Tensor,
    means: Tensor,
    weights: Tensor | None,
    center: Tensor,
    index: Tensor | None,
    needs_means: bool,
    needs_center: bool,
) -> tuple[Tensor, Tensor]:
    shape_means, shape_center = _outputs(means, needs_means, needs_center)
    grad_means = native.allocate(shape_means, means.dtype, means.device)
    if index is not None:
        grad_means.zero_()  # rows the index leaves out
    grad_center = native.allocate(shape_center, center.dtype, means.device)
    native.call(
        "between_class_scatter_backward",
        grad.contiguous(),
        means,
        _contiguous(weights),
        center.contiguous(),
        index,
        grad_means if needs_means else None,
        grad_center if needs_center else None,
    )
    return grad_means, grad_center


def _backward_cpu_accepts(
    grad: Tensor,
    means: Tensor,
    weights: Tensor | None,
    center: Tensor,
    index: Tensor | None,
    needs_means: bool,
    needs_center: bool,
) -> str:
    return (
        _cpu_accepts(means, weights, center, index)
        or not_dtype(torch.float64, grad=grad)
        or not_shape(("grad", grad, (means.shape[1], means.shape[1])))
    )


define(
    "between_class_scatter(Tensor means, Tensor? weights, Tensor center, Tensor? index) -> Tensor",
    fake=_fake,
    reference=reference.between_class_scatter,
    cpu=_cpu,
    cpu_accepts=_cpu_accepts,
    setup_context=_setup_context,
    backward=_backward,
)
define(
    "between_class_scatter_backward(Tensor grad, Tensor means, Tensor? weights, Tensor center, "
    "Tensor? index, bool needs_means, bool needs_center) -> (Tensor, Tensor)",
    fake=_backward_fake,
    reference=reference.between_class_scatter_backward,
    cpu=_backward_cpu,
    cpu_accepts=_backward_cpu_accepts,
    **no_double_backward("between_class_scatter"),
)
