"""S_B = sum_k w_k (mean_k - center) (mean_k - center)^T."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DataError
from .checks import check_index


def _check_weights(weights: Tensor | None) -> None:
    if weights is None:
        return
    bad = ~torch.isfinite(weights) | (weights < 0)
    if bad.any():
        k = int(bad.nonzero()[0])
        raise DataError(
            f"between_class_scatter: weights[{k}] is {float(weights[k]):g}; "
            "expected a finite weight of at least 0"
        )


def between_class_scatter(
    means: Tensor, weights: Tensor | None, center: Tensor, index: Tensor | None
) -> Tensor:
    """Return the weighted sum [D, D] over the rows that `index` names, in float64."""
    _check_weights(weights)
    rows = means[check_index("between_class_scatter", index, means.shape[0])].to(center.dtype)
    centred = rows - center
    weighted = centred if weights is None else centred * weights.to(center.dtype)[:, None]
    return (weighted.T @ centred).double()


def between_class_scatter_backward(
    grad: Tensor,
    means: Tensor,
    weights: Tensor | None,
    center: Tensor,
    index: Tensor | None,
    needs_means: bool,
    needs_center: bool,
) -> tuple[Tensor, Tensor]:
    """Return w_k (mean_k - center) (G + G^T) per row, and minus its sum for the center."""
    where = check_index("between_class_scatter", index, means.shape[0])
    centred = means[where].to(center.dtype) - center
    if weights is not None:
        centred = centred * weights.to(center.dtype)[:, None]
    per_row = centred @ (grad + grad.T).to(center.dtype)
    grad_means = means.new_zeros(means.shape if needs_means else (0, means.shape[1]))
    if needs_means:
        grad_means[where] = per_row.to(means.dtype)
    grad_center = -per_row.sum(0) if needs_center else center.new_zeros(0)
    return grad_means, grad_center
