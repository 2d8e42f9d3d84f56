"""Cosine of each head row with its centred point."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import native
from ..reference import alignment as reference
from ._register import define, no_double_backward, not_dtype, not_shape, unreadable


def _count(points: Tensor, index: Tensor | None) -> int:
    return points.shape[0] if index is None else index.shape[0]


def _fake(head_weight: Tensor, points: Tensor, center: Tensor, index: Tensor | None) -> Tensor:
    return center.new_empty((_count(points, index),))


def _cpu(head_weight: Tensor, points: Tensor, center: Tensor, index: Tensor | None) -> Tensor:
    cosines = native.allocate((_count(points, index),), center.dtype, points.device)
    native.call("alignment", head_weight, points, center.contiguous(), index, cosines)
    return cosines


def _cpu_accepts(head_weight: Tensor, points: Tensor, center: Tensor, index: Tensor | None) -> str:
    if center.dtype not in (torch.float32, torch.float64):
        return f"center is {center.dtype}, not float32 or float64"
    return (
        unreadable(center.dtype, head_weight=head_weight, points=points)
        or not_dtype(torch.int64, index=index)
        or not_shape(
            ("head_weight", head_weight, tuple(points.shape)),
            ("center", center, (points.shape[1],)),
        )
    )


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    head_weight, points, center, index = inputs
    ctx.save_for_backward(head_weight, points, center, index)


def _backward(ctx: Any, grad: Tensor) -> Any:
    needs = ctx.needs_input_grad[:3]
    grads = torch.ops.ncfast.alignment_backward(grad, *ctx.saved_tensors, *needs)
    return (*(g if need else None for g, need in zip(grads, needs, strict=True)), None)


def _outputs(
    head_weight: Tensor, points: Tensor, needs: tuple[bool, bool, bool]
) -> list[tuple[int, ...]]:
    # A gradient nobody asked for is an empty tensor: the schema's arity never changes.
    width = points.shape[1]
    return [
        tuple(head_weight.shape) if needs[0] else (0, width),
        tuple(points.shape) if needs[1] else (0, width),
        (width,) if needs[2] else (0,),
    ]


def _backward_fake(
    grad: Tensor,
    head_weight: Tensor,
    points: Tensor,
    center: Tensor,
    index: Tensor | None,
    needs_head_weight: bool,
    needs_points: bool,
    needs_center: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = _outputs(head_weight, points, (needs_head_weight, needs_points, needs_center))
    return (
        head_weight.new_empty(shapes[0]),
        points.new_empty(shapes[1]),
        center.new_empty(shapes[2]),
    )


def _backward_cpu(
    grad: Tensor,
    head_weight: Tensor,
    points: Tensor,
    center: Tensor,
    index: Tensor | None,
    needs_head_weight: bool,
    needs_points: bool,
    needs_center: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    needs = (needs_head_weight, needs_points, needs_center)
    inputs = (head_weight, points, center)
    outputs = [
        native.allocate(shape, like.dtype, points.device)
        for shape, like in zip(_outputs(head_weight, points, needs), inputs, strict=True)
    ]
    if index is not None:
        for output in outputs[:2]:
            output.zero_()  # rows the index leaves out
    native.call(
        "alignment_backward",
        grad.contiguous(),
        head_weight,
        points,
        center.contiguous(),
        index,
        *(output if need else None for output, need in zip(outputs, needs, strict=True)),
    )
    return outputs[0], outputs[1], outputs[2]


def _backward_cpu_accepts(
    grad: Tensor,
    head_weight: Tensor,
    points: Tensor,
    center: Tensor,
    index: Tensor | None,
    *needs: bool,
) -> str:
    return (
        _cpu_accepts(head_weight, points, center, index)
        or not_dtype(center.dtype, grad=grad)
        or not_shape(("grad", grad, (_count(points, index),)))
    )


define(
    "alignment(Tensor head_weight, Tensor points, Tensor center, Tensor? index) -> Tensor",
    fake=_fake,
    reference=reference.alignment,
    cpu=_cpu,
    cpu_accepts=_cpu_accepts,
    setup_context=_setup_context,
    backward=_backward,
)
define(
    "alignment_backward(Tensor grad, Tensor head_weight, Tensor points, Tensor center, "
    "Tensor? index, bool needs_head_weight, bool needs_points, bool needs_center) "
    "-> (Tensor, Tensor, Tensor)",
    fake=_backward_fake,
    reference=reference.alignment_backward,
    cpu=_backward_cpu,
    cpu_accepts=_backward_cpu_accepts,
    **no_double_backward("alignment"),
)
