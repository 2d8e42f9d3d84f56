"""The nearest class mean for each token: linear_argmax with bias -|m|^2/2."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import native
from .decisions import decide
from .launching import Configuration, launch
from .products import sum_of_rows
from .rows import CenteredRows
from .tiles import load_tile, load_vector

__all__ = ["nearest_center"]

NORMS = (Configuration("4 x 512", 4, 2, {"ROWS": 4, "COLUMNS": 512}),)


@triton.jit
def _half_norms(
    means, stride_n, stride_d, center, out, count, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row_mask = r < count
    squares = tl.zeros((ROWS, COLUMNS), tl.float32)
    for d in range(0, width, COLUMNS):
        columns = d + tl.arange(0, COLUMNS)
        tile = load_tile(means, stride_n, stride_d, r, row_mask, columns, width)
        tile = tile - load_vector(center, 1, columns, width)[None, :]
        squares += tile * tile
    tl.store(out + r, -0.5 * tl.sum(squares, axis=1), mask=row_mask)


def on_a_grid(center: Tensor) -> Tensor:
    """Round to 1/256 of the largest entry: small whole numbers less it are exact, and tie."""
    largest = center.abs().amax() if center.numel() else center.sum()
    grid = torch.exp2(largest.log2().floor() - 8)
    return torch.where(largest > 0, (center / grid).round() * grid, center)


def nearest_center(x: Tensor, means: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return argmin_k |x_i - mean_k| [N], and half the lead of its squared distance [N].

    Distances do not change when the mean of the means is subtracted from all, and digits do not
    cancel where that is far from 0.
    """
    chosen = None if index is None else index.contiguous()
    rows = CenteredRows(means, chosen)
    center = on_a_grid((sum_of_rows(rows) / rows.count).float())
    bias = native.allocate((means.shape[0],), torch.float32, means.device)
    launch(
        _half_norms,
        lambda t: (triton.cdiv(means.shape[0], t["ROWS"]),),
        NORMS,
        *(means, *means.stride(), center, bias, *means.shape),
        key=("width",),
    )
    return decide("nearest_center", "means", x, means, bias, chosen, center)
