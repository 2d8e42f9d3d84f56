"""Distances and cosines of a tile of pairs, found again from differences where digits cancel."""

from __future__ import annotations

import triton
import triton.language as tl

from .pair_points import load_points
from .rows import residual_tile
from .tiles import load_vector

__all__ = ["cosines", "form_tile", "is_near", "is_near_unit", "pairs_exist"]

# At or below this share of |a|^2 + |b|^2 a squared distance from a product has lost digits, and is
# found again from differences (csrc/common/pairs.h).
NEAR = tl.constexpr(0.125)


@triton.jit
def pairs_exist(a, a_kept, b, b_kept, UPPER: tl.constexpr):
    """Return which pairs of visited points are pairs: a < b, or all but a point with itself."""
    other = a[:, None] != b[None, :]
    if UPPER:
        other = a[:, None] < b[None, :]
    return a_kept[:, None] & b_kept[None, :] & other


@triton.jit
def _pair_products(
    x,
    stride_n,
    stride_d,
    center,
    stride_center,
    a_rows,
    a_kept,
    b_rows,
    b_kept,
    width,
    PRECISION: tl.constexpr,
    SIDE: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Return the products of all points of a, from the center, with all of b."""
    product = tl.zeros((SIDE, SIDE), tl.float32)
    for d in range(0, width, DEPTH):
        depth = d + tl.arange(0, DEPTH)
        a = residual_tile(
            *(x, stride_n, stride_d, center, 0, stride_center, None, None),
            *(a_rows, a_rows, a_kept, a_rows, depth, width),
        )
        b = residual_tile(
            *(x, stride_n, stride_d, center, 0, stride_center, None, None),
            *(b_rows, b_rows, b_kept, b_rows, depth, width),
        )
        product = tl.dot(a, tl.trans(b), product, input_precision=PRECISION)
    return product


@triton.jit
def is_near(product, exists, a_squares, b_squares):
    """Return which pairs have a squared distance that a product cannot give."""
    total = a_squares[:, None] + b_squares[None, :]
    return exists & (total - 2 * product <= total * NEAR)


@triton.jit
def cosines(product, a_norms, b_norms):
    """Return cosines in [-1, 1], 0 where one vector is zero, and where none is."""
    a_scale = tl.where(a_norms > 0, 1 / tl.where(a_norms > 0, a_norms, 1.0), 0.0)
    b_scale = tl.where(b_norms > 0, 1 / tl.where(b_norms > 0, b_norms, 1.0), 0.0)
    cosine = product * (a_scale[:, None] * b_scale[None, :])
    cosine = tl.minimum(tl.maximum(cosine, -1.0), 1.0)
    return cosine, (a_norms > 0)[:, None] & (b_norms > 0)[None, :]


@triton.jit
def is_near_unit(cosine, exists):
    """Return which pairs have a squared distance of directions that a cosine cannot give."""
    return exists & (2 - 2 * cosine <= 2 * NEAR)


@triton.jit
def _row_gaps(
    x,
    stride_d,
    a_at,
    a_norm,
    b_at,
    b_norms,
    b_kept,
    center,
    stride_center,
    width,
    UNIT: tl.constexpr,
    SIDE: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Return the squared distances of one row and some others, given where each begins."""
    total = tl.zeros((SIDE,), tl.float32)
    for d in range(0, width, DEPTH):
        columns = d + tl.arange(0, DEPTH)
        part = load_vector(x + a_at, stride_d, columns, width)[None, :]
        inside = b_kept[:, None] & (columns < width)[None, :]
        offsets = b_at[:, None] + columns.to(tl.int64)[None, :] * stride_d
        others = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
        if UNIT:
            # Divided, not multiplied by an inverse: x/|x| is 1.
            middle = load_vector(center, stride_center, columns, width)[None, :]
            part = tl.div_rn(part - middle, a_norm + tl.zeros_like(part))
            others = tl.div_rn(others - middle, b_norms[:, None] + tl.zeros_like(others))
        gap = tl.where(inside, part - others, 0.0)
        total += tl.sum(gap * gap, axis=1)
    return total


@triton.jit
def store_squares(
    home,
    stride,
    square,
    near,
    x,
    stride_n,
    stride_d,
    index,
    squares,
    center,
    stride_center,
    a_first,
    b_rows,
    b_kept,
    b_norms,
    width,
    UNIT: tl.constexpr,
    CHUNK: tl.constexpr,
    SIDE: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Store squared distances of some rows, those that are near from differences, row by row."""
    columns = tl.arange(0, SIDE)
    places = tl.arange(0, CHUNK)[:, None] * stride + columns[None, :]
    tl.store(home + places, tl.where(near, float("nan"), square))
    if tl.max(tl.max(near.to(tl.int32), axis=1), axis=0) > 0:
        tl.debug_barrier()  # what one thread stores, another may load
        for i in range(0, CHUNK):
            row = tl.load(home + i * stride + columns)
            if tl.max((row != row).to(tl.int32), axis=0) > 0:
                at = tl.cast(a_first + i, tl.int64)
                a_norm = tl.sqrt_rn(tl.load(squares + at))
                if index is not None:
                    at = tl.load(index + at)
                gaps = _row_gaps(
                    *(x, stride_d, at * stride_n, a_norm, b_rows * stride_n, b_norms, b_kept),
                    *(center, stride_center, width, UNIT, SIDE, DEPTH),
                )
                tl.store(home + i * stride + columns, tl.where(row != row, gaps, row))


@triton.jit
def form_tile(
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
    a_first,
    b_first,
    products,
    raw_squares,
    unit_squares,
    stride,
    UPPER: tl.constexpr,
    RAW: tl.constexpr,
    UNIT: tl.constexpr,
    PRECISION: tl.constexpr,
    CHUNK: tl.constexpr,
    SIDE: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Store the products of a tile of pairs, |a - b|^2, and |a/|a| - b/|b||^2 from the center.

    Close pairs are found again from differences; of points as they are, as those are exact where
    points are close, unlike those of centred points. What goes through memory, a few rows at a
    time, stays in the nearest cache: in registers, with products, it spilled on sm_80.
    """
    _a, a_rows, a_kept, _a_squares, _a_half = load_points(
        a_first, index, squares, None, count, rows_of_x, SIDE
    )
    b, b_rows, b_kept, b_squares, _b_half = load_points(
        b_first, index, squares, None, count, rows_of_x, SIDE
    )
    product = _pair_products(
        *(x, stride_n, stride_d, center, stride_center, a_rows, a_kept, b_rows, b_kept),
        *(width, PRECISION, SIDE, DEPTH),
    )
    home = products + tl.arange(0, SIDE)[:, None] * stride + tl.arange(0, SIDE)[None, :]
    tl.store(home, product)
    tl.debug_barrier()
    for c in range(0, SIDE, CHUNK):
        a, _, kept, a_squares, _ = load_points(
            a_first + c, index, squares, None, count, rows_of_x, CHUNK
        )
        exists = pairs_exist(a, kept, b, b_kept, UPPER)
        places = tl.arange(0, CHUNK)[:, None] * stride + tl.arange(0, SIDE)[None, :]
        some = tl.load(products + c * stride + places)
        if RAW:
            square = a_squares[:, None] + b_squares[None, :] - 2 * some
            store_squares(
                *(raw_squares + c * stride, stride, square),
                *(is_near(some, exists, a_squares, b_squares), x, stride_n, stride_d, index),
                *(squares, None, 0, a_first + c, b_rows, b_kept, b_squares, width),
                *(False, CHUNK, SIDE, DEPTH),
            )
        if UNIT:
            cosine, defined = cosines(some, tl.sqrt_rn(a_squares), tl.sqrt_rn(b_squares))
            b_norms = tl.sqrt_rn(tl.where(b_squares > 0, b_squares, 1.0))
            store_squares(
                *(unit_squares + c * stride, stride, 2 - 2 * cosine),
                *(is_near_unit(cosine, exists & defined), x, stride_n, stride_d, index),
                *(squares, center, stride_center, a_first + c, b_rows, b_kept, b_norms, width),
                *(True, CHUNK, SIDE, DEPTH),
            )
    tl.debug_barrier()  # what one thread has stored, another loads next
