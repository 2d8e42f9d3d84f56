"""n_c = #{i: y_i = c}, mean_c = sum x_i / n_c, m2_c = sum |x_i - mean_c|^2."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_finite, check_labels


def class_moments(x: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return counts [V], means [V, D] and m2 [V] from the definitions; absent classes get zeros."""
    kept = check_labels("class_moments", y, num_classes)
    check_finite("class_moments", x, kept)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    tokens, labels = x[kept].to(dtype), y[kept]
    counts = torch.zeros(num_classes, dtype=torch.int64, device=x.device)
    counts.index_add_(0, labels, torch.ones_like(labels))
    means = torch.zeros(num_classes, x.shape[1], dtype=dtype, device=x.device)
    means.index_add_(0, labels, tokens)
    means /= counts.clamp(min=1).to(dtype)[:, None]
    m2 = torch.zeros(num_classes, dtype=dtype, device=x.device)
    m2.index_add_(0, labels, (tokens - means[labels]).square().sum(1))
    return counts, means, m2


def class_moments_backward(
    grad_means: Tensor | None,
    grad_m2: Tensor | None,
    x: Tensor,
    y: Tensor,
    counts: Tensor,
    means: Tensor,
) -> Tensor:
    """Return dmean_c/n_c + 2 dm2_c (x_i - mean_c) per token of class c, 0 where ignored."""
    kept = check_labels("class_moments_backward", y, means.shape[0])
    labels = y[kept]
    grad = torch.zeros(x.shape, dtype=means.dtype, device=x.device)
    part = torch.zeros_like(grad[kept])
    if grad_means is not None:
        part += grad_means[labels] / counts[labels].to(means.dtype)[:, None]
    if grad_m2 is not None:
        part += 2 * grad_m2[labels][:, None] * (x[kept].to(means.dtype) - means[labels])
    grad[kept] = part
    return grad.to(x.dtype)
