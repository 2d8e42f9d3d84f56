"""Gradients of a step that is to be skipped: NaN, also where what is masked has none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .counting import in_transform

__all__ = ["with_nan_gradient"]


class _Times(torch.autograd.Function):
    """Hand a tensor on, and its gradient times a factor."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor, factor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return grad * factor.to(grad.dtype), None


def _at_hand(finite: Tensor) -> bool:
    """Return whether it can be asked without waiting for a device: saves a pass over gradients.

    A fake tensor, of a plan or a trace, has nothing to tell.
    """
    is_plain = type(finite) is Tensor and finite.device.type == "cpu"
    return is_plain and not torch.compiler.is_compiling() and not in_transform()


def with_nan_gradient(tensor: Tensor, finite: Tensor | None) -> Tensor:
    """Return a tensor whose gradient is NaN unless ``finite`` [] holds; None: it does.

    A NaN loss does not see to that: tokens that are left out, and what ``where`` masks, have a
    gradient of exactly 0, with which a ``GradScaler`` would take the step.
    """
    if finite is None or not tensor.requires_grad:
        return tensor
    if _at_hand(finite) and bool(finite):
        return tensor
    factor = torch.ones_like(finite, dtype=torch.float32).masked_fill(~finite, torch.nan)
    passed: Tensor = _Times.apply(tensor, factor)
    return passed
