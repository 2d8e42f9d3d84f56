"""argmin_k |x_i - mean_k|, and half the lead of its squared distance on the second."""

from __future__ import annotations

import torch
from torch import Tensor

from .decisions import choose, stack, visited_rows


def nearest_center(x: Tensor, means: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the classes [N] and the margins [N]."""
    wide = torch.float64 in (x.dtype, means.dtype)
    dtype = torch.float64 if wide else torch.float32
    ids, rows = visited_rows("nearest_center", x, "means", means, index)
    rows = rows.to(dtype)
    op = "nearest_center"
    choices = [choose(op, (rows - token).square().sum(1) / -2, ids) for token in x.to(dtype)]
    return stack(choices, x, dtype)
