"""argmax_k <x_i, w_k> + b_k, and its lead on the second."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DataError
from .decisions import choose, stack, visited_rows


def _bias(head_bias: Tensor, ids: Tensor, dtype: torch.dtype) -> Tensor:
    bias = head_bias[ids].to(dtype)
    if not torch.isfinite(bias).all():
        v = int(ids[~torch.isfinite(bias)].min())
        raise DataError(
            f"linear_argmax: head_bias[{v}] is {float(head_bias[v]):g}; expected finite values"
        )
    return bias


def linear_argmax(
    x: Tensor, head_weight: Tensor, head_bias: Tensor | None, index: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the classes [N] and the margins [N]."""
    inputs = (x, head_weight) if head_bias is None else (x, head_weight, head_bias)
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in inputs) else torch.float32
    ids, rows = visited_rows("linear_argmax", x, "head_weight", head_weight, index)
    bias = 0.0 if head_bias is None else _bias(head_bias, ids, dtype)
    rows = rows.to(dtype)
    return stack(
        [choose("linear_argmax", rows @ token + bias, ids) for token in x.to(dtype)], x, dtype
    )
