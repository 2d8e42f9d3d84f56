"""The class of highest score for each token."""

from __future__ import annotations

from torch import Tensor

from .decisions import decide

__all__ = ["linear_argmax"]


def linear_argmax(
    x: Tensor, head_weight: Tensor, head_bias: Tensor | None, index: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return argmax_k <x_i, w_k> + b_k [N], the lowest id of those that tie, and margins [N]."""
    return decide("linear_argmax", "head_weight", x, head_weight, head_bias, index)
