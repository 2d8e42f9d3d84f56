"""Weights of the pairs of a panel in the gradients of their rows, over all functions."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .launching import Configuration, dot_precision, launch
from .pair_functions import (
    CODE_CDNV_SQUARED,
    CODE_COSINE,
    CODE_LOG_DISTANCE,
    CODE_LOG_DISTANCE_RAW,
    ENERGY,
    energy_derivative,
    function_values,
)
from .pair_points import PointSet, load_measures, load_rows
from .pairs import (
    NEAR,
    cosines,
    near_rows,
    next_row,
    pair_products,
    pairs_exist,
    row_by_differences,
    square_of,
    sub_tile_columns,
    sub_tiles,
)

__all__ = ["SIDE", "write_pair_weights"]

# The panels' flags and sums are by tile: configurations differ in depth alone.
NARROW = (
    Configuration("64 x 64 x 64", 4, 3, {"SIDE": 64, "DEPTH": 64}),
    Configuration("64 x 64 x 32", 4, 4, {"SIDE": 64, "DEPTH": 32}),
)
WIDE = (
    Configuration("64 x 64 x 16", 4, 3, {"SIDE": 64, "DEPTH": 16}),
    Configuration("64 x 64 x 16, 8 warps", 8, 3, {"SIDE": 64, "DEPTH": 16}),
)
# Of 16-bit points, of which 4 warps spilled 33 times on sm_100a (of float32 ones 8 did).
WIDENED = WIDE[::-1]
# With energies 4 warps spilled 93 times there. 8 need 148 registers: ptxas, left alone, takes 128,
# so that two programs fit a multiprocessor, and spills 65 times. Of points as stored a depth of 64
# spilled 4 times on sm_80.
ENERGIES_WIDE = (
    Configuration("64 x 64 x 16, 8 warps", 8, 3, {"SIDE": 64, "DEPTH": 16}, registers=255),
    WIDE[0],
)
ENERGIES_NARROW = NARROW[::-1]
SIDE = WIDE[0].tiles["SIDE"]


@triton.jit
def _derivatives(
    codes, upstream, found, functions, exists, directed, cosine, raw, unit, half,
    ENERGIES: tl.constexpr,
):  # fmt: skip
    """Return dL/d|a - b|^2, dL/dcosine and dL/dvariance of a of each pair."""
    by_square = cosine * 0
    by_cosine = cosine * 0
    by_variance = cosine * 0
    for p in range(0, functions):
        code = tl.load(codes + p)
        by_sum = tl.load(upstream + 6 * p + 1).to(tl.float32)
        by_value = (2 * tl.load(upstream + 6 * p + 2)).to(tl.float32)
        value, _, defined, safe = function_values(
            code, exists, directed, cosine, raw, unit, half, ENERGIES
        )
        derivative = by_sum + by_value * value
        if ENERGIES:  # noqa: SIM102, the first is known when compiling
            if code > ENERGY:
                derivative = energy_derivative(value, found + 4 * p, by_sum, by_value)
                derivative *= (code - ENERGY).to(tl.float32)
                code = code * 0 + CODE_LOG_DISTANCE  # from here on
        derivative = tl.where(defined, derivative, 0.0)
        if code == CODE_COSINE:
            by_cosine += derivative
        elif code == CODE_LOG_DISTANCE:
            by_cosine += derivative / safe  # |a^ - b^|^2 = 2 - 2 cosine
        elif code == CODE_LOG_DISTANCE_RAW:
            by_square -= 0.5 * derivative / safe
        else:
            once = 0.5 * derivative / safe
            if code == CODE_CDNV_SQUARED:
                by_variance += once / safe
                by_square -= 2 * derivative * value / safe
            else:
                by_variance += once
                by_square -= derivative * value / safe
    return by_square, by_cosine, by_variance


@triton.jit
def store_sums(sums, places, row_mask, panel_rows, by_square, cross, by_variance, along):
    """Store a tile's sums: a row's own weight, the center's, and its variance's gradient."""
    tl.store(sums + places, 2 * by_square + along, mask=row_mask)
    tl.store(sums + panel_rows + places, cross + along, mask=row_mask)
    tl.store(sums + 2 * panel_rows + places, by_variance, mask=row_mask)


@triton.jit
def write_weights_of_rows(
    products, left_out, a_first, b_first, measures, count, codes, upstream, found, functions,
    tile, panel_columns, weights, close_raw, close_unit, sums, panel_rows,
    RAW: tl.constexpr, UNIT: tl.constexpr, ENERGIES: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """Write the weights and the sums of a tile's rows, but for those left out."""
    local = tl.arange(0, SIDE)
    a, written = a_first + local, left_out == 0
    by_square = tl.zeros((SIDE,), tl.float32)
    by_cross = tl.zeros((SIDE,), tl.float32)
    by_variance = tl.zeros((SIDE,), tl.float32)
    along = tl.zeros((SIDE,), tl.float32)
    a_mask, a_squares, a_inverses, a_half = load_measures(a, measures, count)
    for i in tl.static_range(len(products)):
        tl.debug_barrier()  # one sub-tile after another: several at once spill
        columns = sub_tile_columns(i, SIDE)
        b = b_first + columns
        b_mask, b_squares, b_inverses, b_half = load_measures(b, measures, count)
        cosine = cosines(products[i], a_inverses[:, None], b_inverses[None, :])
        square, angle, variance = _derivatives(
            *(codes, upstream, found, functions, pairs_exist(a, a_mask, b, b_mask, False)),
            *(tl.minimum(a_inverses[:, None], b_inverses[None, :]) > 0, cosine),
            *(square_of(products[i], a_squares[:, None], b_squares[None, :]), 2 - 2 * cosine),
            *(a_half[:, None] + b_half[None, :], ENERGIES),
        )
        cross = angle * (a_inverses[:, None] * b_inverses[None, :])
        places = tile + local[:, None] * panel_columns + columns[None, :]
        tl.store(weights + places, cross - 2 * square, mask=written[:, None])
        if tl.max(left_out, axis=0) > 0:  # else never read
            if RAW:
                tl.store(close_raw + places, cross * 0, mask=written[:, None])
            if UNIT:
                tl.store(close_unit + places, cross * 0, mask=written[:, None])
        by_square += tl.sum(square, axis=1)
        by_cross += tl.sum(cross, axis=1)
        by_variance += tl.sum(variance, axis=1)
        along -= tl.sum(angle * cosine, axis=1)
    along = along * a_inverses * a_inverses
    store_sums(sums, local, written, panel_rows, by_square, by_cross, by_variance, along)


@triton.jit
def write_weights_of_row(
    i, x, stride_n, stride_d, index, center, measures, count, rows_of_x, width,
    a, b_first, codes, upstream, found, functions,
    places, weights, close_raw, close_unit, sums, panel_rows,
    RAW: tl.constexpr, UNIT: tl.constexpr, ENERGIES: tl.constexpr, SIDE: tl.constexpr,
    DEPTH: tl.constexpr,
):  # fmt: skip
    """Write the weights and sums of one row of a tile, from differences; close pairs apart."""
    b = b_first + tl.arange(0, SIDE)
    b_rows, b_mask = load_rows(b, index, count, rows_of_x)
    _b_mask, b_squares, b_inverses, b_half = load_measures(b, measures, count)
    raw, unit, product = row_by_differences(
        *(x, stride_n, stride_d, index, center, measures, a, b_rows, b_mask, b_squares),
        *(width, SIDE, DEPTH),
    )
    a_mask, a_square, a_inverse, a_half = load_measures(a, measures, count)
    cosine = cosines(product, a_inverse, b_inverses)
    exists = a_mask & b_mask & (a != b)
    directed = tl.minimum(a_inverse, b_inverses) > 0
    square, angle, variance = _derivatives(
        *(codes, upstream, found, functions, exists, directed, cosine, raw, unit, a_half + b_half),
        ENERGIES,
    )
    if RAW:
        near = exists & (raw <= (a_square + b_squares) * NEAR)
        tl.store(close_raw + places, tl.where(near, 2 * square, 0.0))
        square = tl.where(near, 0.0, square)
    along = angle * 0
    if UNIT:
        near = exists & directed & (unit <= 2 * NEAR)
        tl.store(close_unit + places, tl.where(near, -angle * a_inverse, 0.0))
        # dcosine/da = -(a^ - b^ - |a^ - b^|^2/2 a^)/|a|, of which this is the second part.
        along = tl.where(near, angle * unit * 0.5, 0.0)
        angle = tl.where(near, 0.0, angle)
    along = tl.sum(along - angle * cosine, axis=0) * a_inverse * a_inverse
    cross = angle * (a_inverse * b_inverses)
    tl.store(weights + places, cross - 2 * square)
    square, cross = tl.sum(square, axis=0), tl.sum(cross, axis=0)
    store_sums(sums, i, i >= 0, panel_rows, square, cross, tl.sum(variance, axis=0), along)


@triton.jit
def _pair_weights(
    x, stride_n, stride_d, index, center, measures, as_stored, count, rows_of_x, width, codes,
    upstream, found, functions, first_row, first_column, weights, close_raw, close_unit, flags,
    sums, panel_rows, panel_columns,
    RAW: tl.constexpr, UNIT: tl.constexpr, ENERGIES: tl.constexpr, AS_STORED: tl.constexpr,
    PRECISION: tl.constexpr, SIDE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    if as_stored is not None:  # noqa: SIM102, the first is known when compiling
        if (tl.load(as_stored) != 0) != AS_STORED:
            return  # another launch writes these weights
    i, j = tl.program_id(0) * SIDE, tl.program_id(1) * SIDE
    a_first, b_first, tile = first_row + i, first_column + j, i * panel_columns + j
    tile_sums = sums + tl.program_id(1) * 3 * panel_rows + i
    products = sub_tiles(
        pair_products(
            *(x, stride_n, stride_d, index, center, measures, count, rows_of_x, width),
            *(a_first, b_first, AS_STORED, PRECISION, SIDE, DEPTH),
        )
    )
    near = near_rows(products, a_first, b_first, measures, count, False, RAW, UNIT, SIDE)
    write_weights_of_rows(
        *(products, near, a_first, b_first, measures, count, codes, upstream, found, functions),
        *(tile, panel_columns, weights, close_raw, close_unit, tile_sums, panel_rows),
        *(RAW, UNIT, ENERGIES, SIDE),
    )
    if RAW or UNIT:
        r = next_row(near, -1, SIDE)
        while r < SIDE:
            places = tile + r * panel_columns + tl.arange(0, SIDE)
            write_weights_of_row(
                *(r, x, stride_n, stride_d, index, center, measures, count, rows_of_x, width),
                *((a_first + r).to(tl.int64), b_first, codes, upstream, found, functions),
                *(places, weights, close_raw, close_unit, tile_sums, panel_rows),
                *(RAW, UNIT, ENERGIES, SIDE, 32),
            )
            r = next_row(near, r, SIDE)
    flag = flags + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    tl.store(flag, tl.max(near, axis=0))


def write_pair_weights(
    points: PointSet,
    codes: Tensor,
    grad: Tensor,
    stats: Tensor,
    first: int,
    begin: int,
    *panels: Tensor,
) -> None:
    """Write the weights of a panel's pairs in the gradients of their rows.

    Args:
        points: the points.
        codes: [P] int32, the functions.
        grad: [P, 6] float64, contiguous.
        stats: [P, 4] float32, of the forward pass: ``sums_in_parts``.
        first: the panel's first row.
        begin: its first column.
        panels: [R, C] float32 weights, of raw and of unit differences of close pairs (one value
            each, if no function needs them; unwritten where the tile has none), of whole tiles;
            [R / SIDE, C / SIDE] int32, tiles with close pairs; [C / SIDE, 3, R] float32 sums over
            a tile's columns: a row's own weight in its gradient and in the center's, and the
            gradient of its variance.
    """
    rows, columns = panels[0].shape
    if points.energies:
        narrow, wide = ENERGIES_NARROW, ENERGIES_WIDE
    else:
        narrow, wide = NARROW, WIDE if points.as_stored is None else WIDENED
    for as_stored in points.variants():
        launch(
            _pair_weights,
            lambda t: (rows // t["SIDE"], columns // t["SIDE"]),
            narrow if as_stored else wide,
            *(*points.arguments(), codes, grad, stats, codes.shape[0], first, begin),
            *(*panels, rows, columns),
            key=("width",),
            RAW=points.raw,
            UNIT=points.unit,
            ENERGIES=points.energies,
            AS_STORED=as_stored,
            PRECISION="ieee" if as_stored else dot_precision(),
        )
