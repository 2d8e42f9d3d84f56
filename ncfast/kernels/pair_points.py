"""The points whose pairs an op visits, and what every pair needs of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import device_errors, native
from .finite import complain_of_nonfinite
from .labels import check_index
from .launching import Configuration, launch
from .rows import Rows, residual_tile, row_places
from .tiles import NOWHERE, complain

__all__ = ["PointSet", "load_points", "measure"]

OP = "pair_stats"
MEASURE = (Configuration("4 x 512", 4, 2, {"ROWS": 4, "COLUMNS": 512}),)


@dataclass(frozen=True)
class PointSet:
    """Hold the points an op visits, and what every pair needs of one, from the center."""

    rows: Rows
    squares: Tensor  # [K] float32: |a|^2
    half_variances: Tensor | None  # [K] float32
    raw: bool  # whether a term wants distances of the points as they are
    unit: bool  # of unit vectors from the center
    cosine: bool  # cosines, which unit distances stand on

    def arguments(self) -> tuple[object, ...]:
        """Return what kernels of pairs take first."""
        rows = self.rows
        assert rows.base is not None
        points = (rows.x, *rows.x.stride(), rows.index, rows.base, rows.base.stride(1))
        return (*points, self.squares, self.half_variances, rows.count, *rows.x.shape)


@triton.jit(do_not_specialize=["slot"])
def _measure_points(
    x,
    stride_n,
    stride_d,
    index,
    base,
    stride_base_n,
    stride_base_d,
    keys,
    weights,
    count,
    rows_of_x,
    limit,
    width,
    variances,
    squares,
    half_variances,
    table,
    slot,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    rows, base_rows, kept, scales = row_places(
        r, count, index, keys, weights, rows_of_x, limit, False
    )
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for d in range(0, width, COLUMNS):
        columns = d + tl.arange(0, COLUMNS)
        tile = residual_tile(
            *(x, stride_n, stride_d, base, stride_base_n, stride_base_d, keys, weights),
            *(rows, base_rows, kept, scales, columns, width),
        )
        total += tile * tile
    tl.store(squares + r, tl.sum(total, axis=1), mask=r < count)
    if variances is not None:
        variance = tl.load(variances + rows, mask=kept, other=0.0)
        bad = (variance < 0) | (variance - variance != 0)
        complain(table, slot, tl.min(tl.where(bad, rows, NOWHERE), axis=0))
        tl.store(half_variances + r, (variance / 2).to(tl.float32), mask=r < count)


def measure(
    points: Tensor,
    variances: Tensor | None,
    center: Tensor,
    index: Tensor | None,
    kinds: Sequence[int],
) -> PointSet:
    """Find the squared norms of the visited points, and complain of values that are of no use."""
    device, shape = points.device, (points.shape[0] if index is None else index.shape[0],)
    check_index(OP, index, points.shape[0])
    rows = Rows(points, None if index is None else index.contiguous(), base=center[None])
    squares = native.allocate(shape, torch.float32, device)
    spread = None if variances is None else variances.contiguous()
    halves = None if spread is None else native.allocate(shape, torch.float32, device)
    launch(
        _measure_points,
        lambda t: (triton.cdiv(rows.count, t["ROWS"]),),
        MEASURE,
        *(*rows.arguments(), spread, squares, halves, device_errors.table(device)),
        device_errors.declare(f"{OP}: variances[{{}}] is negative or not finite"),
    )
    finite = torch.isfinite(squares).all()
    complain_of_nonfinite(OP, "points", finite, points, rows.index)
    complain_of_nonfinite(OP, "center", torch.isfinite(center).all(), center[:, None])
    asked = set(kinds)
    return PointSet(rows, squares, halves, bool(asked & {0, 3}), 1 in asked, bool(asked & {1, 2}))


@triton.jit
def load_points(first, index, squares, half_variances, count, rows_of_x, SIDE: tl.constexpr):
    """Return a tile's points: places, rows of x, whether kept, squared norms, half variances."""
    own = first + tl.arange(0, SIDE)
    k = own.to(tl.int64)
    rows, _, kept, _ = row_places(k, count, index, None, None, rows_of_x, 0, False)
    square = tl.load(squares + k, mask=kept, other=0.0)
    half = square * 0
    if half_variances is not None:
        half = tl.load(half_variances + k, mask=kept, other=0.0)
    return own, rows, kept, square, half
