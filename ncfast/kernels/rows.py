"""Rows that an op measures from somewhere and weighs: chosen, centred and scaled inside a tile."""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from .tiles import load_tile, load_vector

__all__ = ["Rows", "residual_tile", "row_places"]


@dataclass(frozen=True)
class Rows:
    """Hold rows a_r = s_r (x[index_r] - base[key_r]) that no memory ever holds.

    A row whose index or key names nothing is a row of zeros.
    """

    x: Tensor  # [R, D] float
    index: Tensor | None = None  # [K] int64: rows of x; None: each in turn
    base: Tensor | None = None  # [V, D]: what rows are measured from, or [1, D] for all; None: 0
    keys: Tensor | None = None  # [K] int32: rows of base; None: its only row
    weights: Tensor | None = None  # [K] float64 s_r, or their squares: a kernel says which

    @property
    def count(self) -> int:
        """Return K."""
        return self.x.shape[0] if self.index is None else self.index.shape[0]

    @property
    def limit(self) -> int:
        """Return how many rows the base has."""
        return 0 if self.base is None else self.base.shape[0]

    def arguments(self) -> tuple[object, ...]:
        """Return what kernels of such rows take first."""
        strides = (0, 0) if self.base is None else self.base.stride()
        chosen = (self.x, *self.x.stride(), self.index, self.base, *strides, self.keys)
        return (*chosen, self.weights, self.count, self.x.shape[0], self.limit, self.x.shape[1])


@triton.jit
def row_places(r, stop, index, keys, weights, rows_of_x, limit, ROOT: tl.constexpr):
    """Return for entries r (int64) their rows of x and of the base, whether kept, and scales."""
    kept = r < stop
    rows = r
    base_rows = r * 0
    if index is not None:
        rows = tl.load(index + r, mask=kept, other=0)
        kept = kept & (rows >= 0) & (rows < rows_of_x)
    if keys is not None:
        base_rows = tl.load(keys + r, mask=kept, other=limit).to(tl.int64)
        kept = kept & (base_rows < limit)
    scales = kept.to(tl.float32)
    if weights is not None:
        scales = tl.load(weights + r, mask=kept, other=0.0).to(tl.float32)
        if ROOT:
            scales = tl.sqrt_rn(scales)
    return rows, base_rows, kept, scales


@triton.jit
def residual_tile(
    x, stride_n, stride_d, base, stride_base_n, stride_base_d, keys, weights, rows, base_rows, kept,
    scales, columns, width,
):  # fmt: skip
    """Load a tile [rows, columns] of such rows as float32."""
    tile = load_tile(x, stride_n, stride_d, rows, kept, columns, width)
    if base is not None:
        if keys is not None:
            tile -= load_tile(base, stride_base_n, stride_base_d, base_rows, kept, columns, width)
        else:
            center = load_vector(base, stride_base_d, columns, width)
            tile = tl.where(kept[:, None], tile - center[None, :], 0.0)
    if weights is not None:
        tile = tile * scales[:, None]
    return tile
