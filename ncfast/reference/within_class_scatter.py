"""S_W = sum_i (x_i - mean_{y_i}) (x_i - mean_{y_i})^T."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_finite, check_labels


def within_class_scatter(x: Tensor, y: Tensor, means: Tensor) -> Tensor:
    """Return the sum [D, D] over tokens that count, in float64."""
    kept = check_labels("within_class_scatter", y, means.shape[0])
    check_finite("within_class_scatter", x, kept)
    residuals = x[kept].to(means.dtype) - means[y[kept]]
    # 4096 tokens at a time: a longer float32 sum loses digits.
    total = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    for part in residuals.split(4096):
        total += (part.T @ part).double()
    return total


def within_class_scatter_backward(
    grad: Tensor, x: Tensor, y: Tensor, means: Tensor, needs_x: bool, needs_means: bool
) -> tuple[Tensor, Tensor]:
    """Return (x_i - mean) (G + G^T) per token, and minus its sum per class."""
    kept = check_labels("within_class_scatter_backward", y, means.shape[0])
    labels = y[kept]
    per_token = (x[kept].to(means.dtype) - means[labels]) @ (grad + grad.T).to(means.dtype)
    grad_x = x.new_zeros(x.shape if needs_x else (0, x.shape[1]))
    grad_means = means.new_zeros(means.shape if needs_means else (0, means.shape[1]))
    if needs_x:
        grad_x[kept] = per_token.to(x.dtype)
    if needs_means:
        grad_means.index_add_(0, labels, per_token, alpha=-1)
    return grad_x, grad_means
