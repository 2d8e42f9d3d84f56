"""The length of a whole gradient."""

from __future__ import annotations

import torch
from torch import nn


def gradient_norm(model: nn.Module) -> float:
    """Return the length of a model's whole gradient, in float64.

    Args:
        model: its parameters without a gradient count as 0.

    Returns:
        The Euclidean norm.

    >>> gradient_norm(nn.Linear(2, 2))
    0.0
    """
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    # A float64 norm of a float32 tensor copies it whole; 4 MiB at a time is as exact.
    pieces = [piece for grad in grads for piece in grad.split(1 << 20)]
    squares = [torch.linalg.vector_norm(p, dtype=torch.float64).square() for p in pieces]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0
