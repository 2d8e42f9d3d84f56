"""The norm of a whole gradient."""

from __future__ import annotations

import torch
from torch import nn


def gradient_norm(model: nn.Module) -> float:
    """Return the Euclidean norm of a model's whole gradient, in float64; none counts as 0.

    >>> gradient_norm(nn.Linear(2, 2))
    0.0
    """
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    # A float64 norm of a float32 tensor copies it whole; 4 MiB at a time is as exact.
    pieces = [piece for grad in grads for piece in grad.split(1 << 20)]
    squares = [torch.linalg.vector_norm(p, dtype=torch.float64).square() for p in pieces]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0
