"""Rows times a matrix, and the sum of rows: the two halves of a scatter's gradient."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import native
from .launching import Configuration, dot_precision, launch
from .rows import CenteredRows, residual_tile, row_places
from .tiles import load_tile

__all__ = ["sum_of_rows", "symmetric", "times_matrix"]

# float32 keeps its digits in three tf32 products, whose operands fill the registers of sm_80: the
# default is the largest tile that spills nothing there.
PRODUCT = (
    Configuration("64 x 128 x 32", 8, 3, {"ROWS": 64, "COLUMNS": 128, "DEPTH": 32}),
    Configuration("128 x 128 x 32", 8, 2, {"ROWS": 128, "COLUMNS": 128, "DEPTH": 32}),
)
SUM = (Configuration("128 x 128", 4, 2, {"SPAN": 128, "ROWS": 16, "COLUMNS": 128}),)


@triton.jit
def _times_matrix(
    x, stride_n, stride_d, index, centers, stride_center_n, stride_center_d, keys, weights, count,
    rows_of_x, limit, width, matrix, out, out_rows, rows_of_out,
    PRECISION: tl.constexpr, NEGATE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    rows, center_rows, row_mask, scales = row_places(
        r, count, index, keys, weights, rows_of_x, limit, False
    )
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for d in range(0, width, DEPTH):
        depth = d + tl.arange(0, DEPTH)
        a = residual_tile(
            *(x, stride_n, stride_d, centers, stride_center_n, stride_center_d, keys, weights),
            *(rows, center_rows, row_mask, scales, depth, width),
        )
        inside = depth < width
        b = load_tile(matrix, width, 1, depth.to(tl.int64), inside, columns, width)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    if NEGATE:
        total = -total
    out_row = r
    stored = r < count
    if out_rows is not None:
        out_row = tl.load(out_rows + r, mask=stored, other=0)
        stored = stored & (out_row >= 0) & (out_row < rows_of_out)
    mask = stored[:, None] & (columns[None, :] < width)
    places = out_row[:, None] * width + columns[None, :]
    tl.store(out + places, total.to(out.dtype.element_ty), mask=mask)


def symmetric(grad: Tensor) -> Tensor:
    """Return G + G^T, as float64."""
    return grad + grad.T


def times_matrix(
    rows: CenteredRows,
    matrix: Tensor,
    out: Tensor,
    out_rows: Tensor | None = None,
    negate: bool = False,
) -> None:
    """Write the rows w_r (x - center) times a [D, D] float32 matrix, or minus it, rounded once.

    ``out_rows`` [K] int64: the row of ``out`` for each, none where out of range; None: in turn. The
    result has the dtype of ``out``.
    """
    width, count = rows.x.shape[1], rows.count
    launch(
        _times_matrix,
        lambda t: (triton.cdiv(count, t["ROWS"]), triton.cdiv(width, t["COLUMNS"])),
        PRODUCT,
        *(*rows.arguments(), matrix, out, out_rows, out.shape[0]),
        key=("width",),
        PRECISION=dot_precision(),
        NEGATE=negate,
    )


@triton.jit
def _sum_of_rows(
    x, stride_n, stride_d, index, centers, stride_center_n, stride_center_d, keys, weights, count,
    rows_of_x, limit, width, partial,
    SPAN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    span = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, SPAN, ROWS):
        r = span * SPAN + start + tl.arange(0, ROWS)
        rows, center_rows, row_mask, scales = row_places(
            r, count, index, keys, weights, rows_of_x, limit, False
        )
        tile = residual_tile(
            *(x, stride_n, stride_d, centers, stride_center_n, stride_center_d, keys, weights),
            *(rows, center_rows, row_mask, scales, columns, width),
        )
        total += tl.sum(tile, axis=0)
    tl.store(partial + span * width + columns, total, mask=columns < width)


def sum_of_rows(rows: CenteredRows) -> Tensor:
    """Return [D] float64: the sum of w_r (x - center), 128 rows at a time in float32."""
    width, spans = rows.x.shape[1], -(-rows.count // SUM[0].tiles["SPAN"])
    partial = native.allocate((spans, width), torch.float32, rows.x.device)
    launch(
        _sum_of_rows,
        lambda t: (spans, triton.cdiv(width, t["COLUMNS"])),
        SUM,
        *(*rows.arguments(), partial),
    )
    return partial.sum(0, dtype=torch.float64)
