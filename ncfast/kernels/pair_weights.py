"""Coefficients of the pairs of a panel: what the gradient of every term says of each."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .launching import Configuration, dot_precision, launch
from .pair_points import PointSet, load_points
from .pair_terms import term_values
from .pairs import cosines, form_tile, is_near, is_near_unit, pairs_exist

__all__ = ["SIDE", "weigh_pairs"]

WEIGH = (Configuration("64 x 64 x 32", 8, 3, {"SIDE": 64, "CHUNK": 32, "DEPTH": 32}),)
SIDE = WEIGH[0].tiles["SIDE"]


@triton.jit
def _slopes(
    codes,
    upstream,
    terms,
    exists,
    products,
    raw_squares,
    unit_squares,
    a_squares,
    b_squares,
    a_half,
    b_half,
    RAW: tl.constexpr,
    UNIT: tl.constexpr,
    CHUNK: tl.constexpr,
    SIDE: tl.constexpr,
):
    """Return dL/d|a - b|^2, dL/dcosine and dL/dvariance of a of each pair."""
    by_square = tl.zeros((CHUNK, SIDE), tl.float32)
    by_cosine = tl.zeros((CHUNK, SIDE), tl.float32)
    by_variance = tl.zeros((CHUNK, SIDE), tl.float32)
    for p in range(0, terms):
        code = tl.load(codes + p)
        by_sum = tl.load(upstream + 6 * p + 1).to(tl.float32)
        by_value = (2 * tl.load(upstream + 6 * p + 2)).to(tl.float32)
        value, _, defined, safe = term_values(
            *(code, exists, products, raw_squares, unit_squares, a_squares, b_squares),
            *(a_half, b_half, RAW, UNIT),
        )
        slope = tl.where(defined, by_sum + by_value * value, 0.0)
        if code == 2:
            by_cosine += slope
        elif code == 1:
            by_cosine += slope / safe  # |a^ - b^|^2 = 2 - 2 cosine
        elif code == 3:
            by_square -= 0.5 * slope / safe
        else:
            once = 0.5 * slope / safe
            if code == 4:
                by_variance += once / safe
                by_square -= 2 * slope * value / safe
            else:
                by_variance += once
                by_square -= slope * value / safe
    return by_square, by_cosine, by_variance


@triton.jit
def _weigh_pairs(
    x,
    stride_n,
    stride_d,
    index,
    center,
    stride_center,
    squares,
    half_variances,
    count,
    rows_of_x,
    width,
    codes,
    upstream,
    terms,
    first_row,
    first_column,
    weights,
    close_raw,
    close_unit,
    flags,
    sums,
    panel_rows,
    panel_columns,
    RAW: tl.constexpr,
    UNIT: tl.constexpr,
    PRECISION: tl.constexpr,
    CHUNK: tl.constexpr,
    SIDE: tl.constexpr,
    DEPTH: tl.constexpr,
):
    i, j = tl.program_id(0) * SIDE, tl.program_id(1) * SIDE
    # The panels hold products and squared distances first, then what they are turned into.
    tile = i * panel_columns + j
    form_tile(
        *(x, stride_n, stride_d, index, center, stride_center, squares, half_variances, count),
        *(rows_of_x, width, first_row + i, first_column + j, weights + tile, close_raw + tile),
        *(close_unit + tile, panel_columns, False, RAW, UNIT, PRECISION, CHUNK, SIDE, DEPTH),
    )
    b, _b_rows, b_kept, b_squares, b_half = load_points(
        first_column + j, index, squares, half_variances, count, rows_of_x, SIDE
    )
    others = tl.where(b_squares > 0, 1 / tl.sqrt_rn(tl.where(b_squares > 0, b_squares, 1.0)), 0.0)
    close = 0
    for c in range(0, SIDE, CHUNK):
        a, _, a_kept, a_squares, a_half = load_points(
            first_row + i + c, index, squares, half_variances, count, rows_of_x, CHUNK
        )
        exists = pairs_exist(a, a_kept, b, b_kept, False)
        places = tile + c * panel_columns + tl.arange(0, CHUNK)[:, None] * panel_columns
        places = places + tl.arange(0, SIDE)[None, :]
        product = tl.load(weights + places)
        by_square, by_cosine, by_variance = _slopes(
            *(codes, upstream, terms, exists, weights + places, close_raw + places),
            *(close_unit + places, a_squares, b_squares, a_half, b_half),
            *(RAW, UNIT, CHUNK, SIDE),
        )
        arc = product * 0
        if UNIT:
            arc = tl.load(close_unit + places)
        tl.debug_barrier()  # all is read before it is written over
        if RAW:
            near = is_near(product, exists, a_squares, b_squares)
            close = tl.maximum(close, tl.max(tl.max(near.to(tl.int32), axis=1), axis=0))
            tl.store(close_raw + places, tl.where(near, 2 * by_square, 0.0))
            by_square = tl.where(near, 0.0, by_square)
        norms = tl.sqrt_rn(a_squares)
        cosine, defined = cosines(product, norms, tl.sqrt_rn(b_squares))
        inverse = tl.where(norms > 0, 1 / tl.where(norms > 0, norms, 1.0), 0.0)
        along = tl.zeros((CHUNK,), tl.float32)
        if UNIT:
            near = is_near_unit(cosine, exists & defined)
            close = tl.maximum(close, tl.max(tl.max(near.to(tl.int32), axis=1), axis=0))
            tl.store(close_unit + places, tl.where(near, -by_cosine * inverse[:, None], 0.0))
            # dcosine/da = -(a^ - b^ - |a^ - b^|^2/2 a^)/|a|, of which this is the second part.
            along += tl.sum(tl.where(near, by_cosine * arc * 0.5, 0.0), axis=1)
            by_cosine = tl.where(near, 0.0, by_cosine)
        along = (along - tl.sum(by_cosine * cosine, axis=1)) * inverse * inverse
        cross = by_cosine * (inverse[:, None] * others[None, :])
        tl.store(weights + places, cross - 2 * by_square)
        home = sums + tl.program_id(1) * 3 * panel_rows + i + c + tl.arange(0, CHUNK)
        tl.store(home, 2 * tl.sum(by_square, axis=1) + along)
        tl.store(home + panel_rows, tl.sum(cross, axis=1) + along)
        tl.store(home + 2 * panel_rows, tl.sum(by_variance, axis=1))
    tl.store(flags + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), close)


def weigh_pairs(
    points: PointSet, codes: Tensor, grad: Tensor, first: int, begin: int, *panels: Tensor
) -> None:
    """Write what a panel's pairs weigh in the gradients of their rows.

    Args:
        points: the points.
        codes: [P] int32, the terms.
        grad: [P, 6] float64, contiguous.
        first: the panel's first row.
        begin: its first column.
        panels: [R, C] float32 weights, of raw and of unit gaps of close pairs (one value each, if
            no term needs those), all of whole tiles; [R / SIDE, C / SIDE] int32, tiles with close
            pairs; [C / SIDE, 3, R] float32 sums over a tile's columns: what a row itself weighs in
            its gradient and in the center's, and the gradient of its variance.
    """
    rows, columns = panels[0].shape
    launch(
        _weigh_pairs,
        lambda t: (rows // t["SIDE"], columns // t["SIDE"]),
        WEIGH,
        *(*points.arguments(), codes, grad, codes.shape[0], first, begin, *panels, rows, columns),
        RAW=points.raw,
        UNIT=points.unit,
        PRECISION=dot_precision(),
    )
