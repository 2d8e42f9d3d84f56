"""The points whose pairs an op visits, and what every pair needs of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import device_errors, native
from .finite import report_nonfinite
from .labels import check_index
from .launching import Configuration, launch
from .pair_functions import CDNV, LOG_DISTANCE, LOG_DISTANCE_RAW, RIESZ
from .rows import CenteredRows, residual_tile, row_places
from .tiles import NOWHERE, load_vector, report_error

__all__ = ["PointSet", "load_measures", "load_rows", "load_shifts", "measure"]

OP = "pair_stats"
# 16-bit points multiply as they are if |c|^2 is at most this much of every |a - c|^2; more than 256
# columns allow 16/sqrt(D). Exact sums would allow more: in the interpreter, at D = 1,024, the worst
# error of any function was 0.36 of what the error rule allows at 4. Tensor cores truncate, which
# the interpreter does not: what the CUDA emulator allows, which does, is the limit in
# csrc/cuda/pairs.cuh.
CENTER = 1.0
MEASURE = (Configuration("4 x 512", 4, 2, {"ROWS": 4, "COLUMNS": 512}),)


@dataclass(frozen=True)
class PointSet:
    """Hold the points an op visits, and what every pair needs of one, from the center."""

    rows: CenteredRows
    measures: Tensor  # [4, K] float32: |a|^2, 1/|a| or 0, variance/2, and shift (load_shifts)
    as_stored: Tensor | None  # [] int32, on the device: whether 16-bit points multiply as they are
    raw: bool  # whether a function needs distances of the points as they are
    unit: bool  # of unit vectors from the center
    energies: bool  # or Riesz energies, whose sums are logarithms

    def arguments(self) -> tuple[object, ...]:
        """Return what kernels of pairs take first."""
        rows = self.rows
        points = (rows.x, *rows.x.stride(), rows.index, rows.centers, self.measures, self.as_stored)
        return (*points, rows.count, *rows.x.shape)

    def variants(self) -> tuple[bool, ...]:
        """Return which kernels to launch: of points as stored, of centred ones.

        Which of two does the work is known on the device alone; the other returns at once.
        """
        return (False,) if self.as_stored is None else (True, False)


@triton.jit(do_not_specialize=["slot"])
def _measure_points(
    x, stride_n, stride_d, index, centers, stride_center_n, stride_center_d, keys, weights, count,
    rows_of_x, limit, width, variances, measures, table, slot,
    SHIFTED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    rows, center_rows, row_mask, scales = row_places(
        r, count, index, keys, weights, rows_of_x, limit, False
    )
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    along = tl.zeros((ROWS, COLUMNS), tl.float32)
    for d in range(0, width, COLUMNS):
        columns = d + tl.arange(0, COLUMNS)
        tile = residual_tile(
            *(x, stride_n, stride_d, centers, stride_center_n, stride_center_d, keys, weights),
            *(rows, center_rows, row_mask, scales, columns, width),
        )
        total += tile * tile
        if SHIFTED:
            # (a - c).(b - c) = a.b - (a.c - c.c/2) - (b.c - c.c/2), and a = (a - c) + c.
            center_values = load_vector(centers, stride_center_d, columns, width)[None, :]
            along += (tile + 0.5 * center_values) * center_values
    square = tl.sum(total, axis=1)
    half = square * 0
    if variances is not None:
        variance = tl.load(variances + rows, mask=row_mask, other=0.0)
        bad = (variance < 0) | (variance - variance != 0)
        report_error(table, slot, tl.min(tl.where(bad, rows, NOWHERE), axis=0))
        half = (variance / 2).to(tl.float32)
    inside, stride = r < count, tl.cast(count, tl.int64)
    inverse = tl.where(square > 0, 1 / tl.sqrt_rn(tl.where(square > 0, square, 1.0)), 0.0)
    tl.store(measures + r, square, mask=inside)
    tl.store(measures + stride + r, inverse, mask=inside)
    tl.store(measures + 2 * stride + r, half, mask=inside)
    tl.store(measures + 3 * stride + r, tl.sum(along, axis=1), mask=inside)


def keeps_digits(squares: Tensor, center: Tensor) -> Tensor:
    """Return [] int32, on the device: whether products of points as stored can be shifted.

    Args:
        squares: [K] float32, of points from the center.
        center: [D] float32.
    """
    nearest = squares.masked_fill(squares == 0, float("inf")).amin()
    allowed = min(CENTER, 16 / math.sqrt(len(center)))
    return (center.square().sum() <= allowed * nearest).int()


def measure(
    points: Tensor,
    variances: Tensor | None,
    center: Tensor,
    index: Tensor | None,
    kinds: Sequence[int],
) -> PointSet:
    """Compute the squared norms of the visited points, and report values that are not finite."""
    device, count = points.device, (points if index is None else index).shape[0]
    check_index(OP, index, points.shape[0])
    index = None if index is None else index.contiguous()
    rows = CenteredRows(points, index, centers=center.contiguous()[None])
    measures = native.allocate((4, count), torch.float32, device)
    narrow = points.dtype != torch.float32
    launch(
        _measure_points,
        lambda t: (triton.cdiv(count, t["ROWS"]),),
        MEASURE,
        *(*rows.arguments(), None if variances is None else variances.contiguous(), measures),
        device_errors.table(device),
        device_errors.declare(f"{OP}: variances[{{}}] is negative or not finite"),
        SHIFTED=narrow,
    )
    squares = measures[0]
    finite = torch.isfinite(squares).all()
    report_nonfinite(OP, "points", finite, points, rows.index)
    report_nonfinite(OP, "center", torch.isfinite(center).all(), center[:, None])
    as_stored = keeps_digits(squares, center) if narrow and count else None
    raw, unit = {CDNV, LOG_DISTANCE_RAW} & set(kinds), {LOG_DISTANCE, RIESZ} & set(kinds)
    return PointSet(rows, measures, as_stored, bool(raw), bool(unit), RIESZ in kinds)


@triton.jit
def load_rows(own, index, count, rows_of_x):
    """Return the rows of x of visited points, and which there are."""
    rows, _, row_mask, _ = row_places(
        own.to(tl.int64), count, index, None, None, rows_of_x, 0, False
    )
    return rows, row_mask


@triton.jit
def load_measures(own, measures, count):
    """Return |a|^2, 1/|a| or 0, and half a variance, of visited points, and which there are.

    An entry whose index names no row has the measures of a zero: the op has reported an error.
    """
    row_mask = own < count
    stride = tl.cast(count, tl.int64)
    square = tl.load(measures + own, mask=row_mask, other=0.0)
    inverse = tl.load(measures + stride + own, mask=row_mask, other=0.0)
    half = tl.load(measures + 2 * stride + own, mask=row_mask, other=0.0)
    return row_mask, square, inverse, half


@triton.jit
def load_shifts(own, measures, count):
    """Return what to subtract from products of points as stored to center them."""
    return tl.load(measures + 3 * tl.cast(count, tl.int64) + own, mask=own < count, other=0.0)
