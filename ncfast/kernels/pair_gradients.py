"""Gradients of functions of every pair: coefficients of a panel of pairs, times points.

With C = dL/d|a - b|^2, E = dL/dcosine and W = E/(|a||b|) - 2 C (csrc/cpu/pair_stats.cpp):
    grad a = sum_b W b + (sum_b 2 C - E cosine/|a|^2) a.
Terms of close pairs would cancel in it: they are formed from differences, by a kernel of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import native
from .launching import Configuration, launch
from .pair_functions import function_codes, sums_in_parts
from .pair_points import PointSet, load_measures, load_rows, measure
from .pair_weights import SIDE, write_pair_weights
from .panels import add_panel_products
from .rows import residual_tile, row_places
from .tiles import load_tile, load_vector

__all__ = ["pair_stats_backward"]

PANEL_ROWS, PANEL_COLUMNS = 2048, 4096  # 32 MiB of coefficients
CLOSE = (Configuration("64 x 64", 4, 1, {"SIDE": 64, "COLUMNS": 64}),)
WRITE = (Configuration("16 x 256", 8, 1, {"ROWS": 16, "COLUMNS": 256}),)


@triton.jit
def _add_close(
    x, stride_n, stride_d, index, center, measures, as_stored, count, rows_of_x, width, first_row,
    first_column, close_raw, close_unit, flags, column_tiles, panel_columns, total, partial,
    RAW: tl.constexpr, UNIT: tl.constexpr, SIDE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    local = tl.program_id(0) * SIDE + tl.arange(0, SIDE)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    rows, row_mask = load_rows(first_row + local, index, count, rows_of_x)
    _, a_squares, _, _ = load_measures(first_row + local, measures, count)
    a = load_tile(x, stride_n, stride_d, rows, row_mask, columns, width)
    center_values = load_vector(center, 1, columns, width)
    a_norms = tl.sqrt_rn(tl.where(a_squares > 0, a_squares, 1.0))
    a_units = tl.div_rn(a - center_values[None, :], a_norms[:, None] + tl.zeros_like(a))
    by_raw = tl.zeros((SIDE, COLUMNS), tl.float32)
    by_unit = tl.zeros((SIDE, COLUMNS), tl.float32)
    for j in range(0, column_tiles):
        if tl.load(flags + tl.program_id(0) * column_tiles + j) != 0:
            stop = tl.minimum(SIDE, count - first_column - j * SIDE)
            for c in range(0, stop):
                place = local * panel_columns + j * SIDE + c
                raw = tl.zeros((SIDE,), tl.float32)
                unit = tl.zeros((SIDE,), tl.float32)
                if RAW:
                    raw = tl.load(close_raw + place)
                if UNIT:
                    unit = tl.load(close_unit + place)
                if tl.max(tl.abs(raw) + tl.abs(unit), axis=0) > 0:
                    at = tl.cast(first_column + j * SIDE + c, tl.int64)
                    square = tl.load(measures + at)
                    if index is not None:
                        at = tl.load(index + at)
                    b = load_vector(x + at * stride_n, stride_d, columns, width)
                    by_raw += raw[:, None] * (a - b[None, :])
                    norm = tl.sqrt_rn(tl.where(square > 0, square, 1.0))
                    b_unit = tl.div_rn(b - center_values, norm + tl.zeros_like(b))
                    by_unit += unit[:, None] * (a_units - b_unit[None, :])
    places = local[:, None].to(tl.int64) * width + columns[None, :]
    mask = row_mask[:, None] & (columns < width)[None, :]
    before = tl.load(total + places, mask=mask, other=0.0)
    tl.store(total + places, before + (by_raw + by_unit), mask=mask)
    tl.store(
        partial + tl.program_id(0).to(tl.int64) * width + columns,
        tl.sum(by_unit, axis=0),
        mask=columns < width,
    )


@triton.jit
def _write_gradients(
    x, stride_n, stride_d, index, centers, stride_center_n, stride_center_d, keys, weights, count,
    rows_of_x, limit, width, first_row, panel_rows, total, sums, grad_points, grad_variances,
    partial,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    local = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    stop = tl.minimum(first_row + panel_rows, count)
    rows, center_rows, row_mask, scales = row_places(
        first_row + local, stop, index, keys, weights, rows_of_x, limit, False
    )
    own = tl.load(sums + local, mask=row_mask, other=0.0).to(tl.float32)
    of_center = tl.load(sums + panel_rows + local, mask=row_mask, other=0.0).to(tl.float32)
    if grad_variances is not None:
        of_variance = tl.load(sums + 2 * panel_rows + local, mask=row_mask, other=0.0)
        tl.store(grad_variances + rows, of_variance, mask=row_mask)
    for d in range(0, width, COLUMNS):
        columns = d + tl.arange(0, COLUMNS)
        a = residual_tile(
            *(x, stride_n, stride_d, centers, stride_center_n, stride_center_d, keys, weights),
            *(rows, center_rows, row_mask, scales, columns, width),
        )
        mask = row_mask[:, None] & (columns < width)[None, :]
        if grad_points is not None:
            places = local[:, None] * width + columns[None, :]
            row = tl.load(total + places, mask=mask, other=0.0) + own[:, None] * a
            target = grad_points + rows[:, None] * width + columns[None, :]
            tl.store(target, row.to(grad_points.dtype.element_ty), mask=mask)
        if partial is not None:
            target = partial + tl.program_id(0).to(tl.int64) * width + columns
            tl.store(target, tl.sum(of_center[:, None] * a, axis=0), mask=columns < width)


@dataclass(frozen=True)
class _Panels:
    """Hold the memory of one panel of pairs, and what its rows have added up to."""

    weights: Tensor  # [R, C] float32, sides of whole tiles
    close_raw: Tensor  # [R, C] float32; one value where no function needs it
    close_unit: Tensor
    flags: Tensor  # [R / side, C / side] int32: tiles with close pairs
    sums: Tensor  # [C / side, 3, R] float32: own, of_center, by_variance
    total: Tensor  # [R, D] float32
    close_sums: Tensor  # [R / side, D] float32


def _panels(points: PointSet) -> _Panels:
    device, count = points.measures.device, points.rows.count
    tiles = [triton.cdiv(min(largest, count), SIDE) for largest in (PANEL_ROWS, PANEL_COLUMNS)]
    rows, columns, width = tiles[0] * SIDE, tiles[1] * SIDE, points.rows.x.shape[1]

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return native.allocate(shape, dtype, device)

    return _Panels(
        new(rows, columns),
        new(rows, columns) if points.raw else new(1),
        new(rows, columns) if points.unit else new(1),
        new(*tiles, dtype=torch.int32),
        new(tiles[1], 3, rows),
        new(rows, width),
        new(tiles[0], width),
    )


def _add_columns(
    points: PointSet, panels: _Panels, codes: Tensor, grad: Tensor, stats: Tensor, first: int
) -> tuple[Tensor, Tensor]:
    """Fill ``panels.total`` from every column; return own, of_center and by_variance [3, R] and,
    for the center, what close pairs give directions [D], all float64.
    """
    rows, columns = panels.weights.shape
    width, count = points.rows.x.shape[1], points.rows.count
    sums = torch.zeros((3, rows), dtype=torch.float64, device=grad.device)
    closest = torch.zeros((width,), dtype=torch.float64, device=grad.device)
    kinds: dict[str, Any] = {"RAW": points.raw, "UNIT": points.unit}
    for begin in range(0, count, columns):
        some = (panels.weights, panels.close_raw, panels.close_unit, panels.flags, panels.sums)
        write_pair_weights(points, codes, grad, stats, first, begin, *some)
        sums += panels.sums.sum(0, dtype=torch.float64)
        add_panel_products(panels.weights, points.rows, begin, panels.total, add=begin > 0)
        if points.raw or points.unit:
            launch(
                _add_close,
                lambda t: (rows // SIDE, triton.cdiv(width, t["COLUMNS"])),
                CLOSE,
                *(*points.arguments(), first, begin, panels.close_raw, panels.close_unit),
                *(panels.flags, columns // SIDE, columns, panels.total, panels.close_sums),
                **kinds,
            )
            closest += panels.close_sums.sum(0, dtype=torch.float64)
    return sums, closest


def pair_stats_backward(
    grad: Tensor,
    points: Tensor,
    variances: Tensor | None,
    center: Tensor,
    index: Tensor | None,
    stats: Tensor,
    kinds: Sequence[int],
    powers: Sequence[int],
    needs_points: bool,
    needs_variances: bool,
    needs_center: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of sums and sums of squares; panels of pairs add in a fixed order."""
    device, (rows, width) = points.device, points.shape
    found = measure(points, variances, center, index, kinds)
    codes = function_codes(kinds, powers, device)
    grad_points = native.allocate((rows if needs_points else 0, width), points.dtype, device)
    grad_variances = native.allocate((rows if needs_variances else 0,), torch.float64, device)
    if index is not None:
        grad_points.zero_()  # rows the index leaves out
        grad_variances.zero_()
    panels, upstream, stats = _panels(found), grad.contiguous(), sums_in_parts(stats)
    by_center = torch.zeros((width,), dtype=torch.float64, device=device)
    block = WRITE[0].tiles["ROWS"]
    height = panels.total.shape[0]
    partial = native.allocate((triton.cdiv(height, block), width), torch.float32, device)
    for first in range(0, found.rows.count, max(height, 1)):
        sums, closest = _add_columns(found, panels, codes, upstream, stats, first)
        launch(
            _write_gradients,
            lambda t: (partial.shape[0],),
            WRITE,
            *(*found.rows.arguments(), first, height, panels.total, sums),
            *(grad_points if needs_points else None, grad_variances if needs_variances else None),
            partial if needs_center else None,
        )
        if needs_center:
            by_center -= closest + partial.sum(0, dtype=torch.float64)
    grad_center = native.allocate((width if needs_center else 0,), center.dtype, device)
    if needs_center:
        grad_center.copy_(by_center)
    return grad_points, grad_variances, grad_center
