"""Rows selected by an index, less a center, times a weight: computed inside a tile."""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from .tiles import load_tile, load_vector

__all__ = ["CenteredRows", "residual_tile", "row_places"]


@dataclass(frozen=True)
class CenteredRows:
    """Hold rows a_r = s_r (x[index_r] - centers[key_r]) that are never stored.

    A row whose index or key names nothing is a row of zeros.
    """

    x: Tensor  # [R, D] float
    index: Tensor | None = None  # [K] int64: rows of x; None: each in turn
    centers: Tensor | None = None  # [V, D]: subtracted from rows, or [1, D] from all; None: 0
    keys: Tensor | None = None  # [K] int32: rows of centers; None: the only one
    weights: Tensor | None = None  # [K] float64 s_r, or their squares: a kernel says which

    @property
    def count(self) -> int:
        """Return K."""
        return self.x.shape[0] if self.index is None else self.index.shape[0]

    @property
    def limit(self) -> int:
        """Return how many centers there are."""
        return 0 if self.centers is None else self.centers.shape[0]

    def arguments(self) -> tuple[object, ...]:
        """Return what kernels of such rows take first."""
        strides = (0, 0) if self.centers is None else self.centers.stride()
        chosen = (self.x, *self.x.stride(), self.index, self.centers, *strides, self.keys)
        return (*chosen, self.weights, self.count, self.x.shape[0], self.limit, self.x.shape[1])


@triton.jit
def row_places(r, stop, index, keys, weights, rows_of_x, limit, ROOT: tl.constexpr):
    """Return for entries r (int64) their rows of x and of the centers, the mask, scales."""
    row_mask = r < stop
    rows = r
    center_rows = r * 0
    if index is not None:
        rows = tl.load(index + r, mask=row_mask, other=0)
        row_mask = row_mask & (rows >= 0) & (rows < rows_of_x)
    if keys is not None:
        center_rows = tl.load(keys + r, mask=row_mask, other=limit).to(tl.int64)
        row_mask = row_mask & (center_rows < limit)
    scales = row_mask.to(tl.float32)
    if weights is not None:
        scales = tl.load(weights + r, mask=row_mask, other=0.0).to(tl.float32)
        if ROOT:
            scales = tl.sqrt_rn(scales)
    return rows, center_rows, row_mask, scales


@triton.jit
def residual_tile(
    x, stride_n, stride_d, centers, stride_center_n, stride_center_d, keys, weights, rows,
    center_rows, row_mask, scales, columns, width,
):  # fmt: skip
    """Load a tile [rows, columns] of such rows as float32."""
    tile = load_tile(x, stride_n, stride_d, rows, row_mask, columns, width)
    if centers is not None:
        if keys is not None:
            tile -= load_tile(
                centers, stride_center_n, stride_center_d, center_rows, row_mask, columns, width
            )
        else:
            center = load_vector(centers, stride_center_d, columns, width)
            tile = tl.where(row_mask[:, None], tile - center[None, :], 0.0)
    if weights is not None:
        tile = tile * scales[:, None]
    return tile
