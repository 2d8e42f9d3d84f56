"""Products of a tile of pairs; their distances, found again where a product has lost the digits."""

from __future__ import annotations

import triton
import triton.language as tl

from .pair_points import load_measures, load_rows, load_shifts
from .tiles import load_tile, load_vector, product_tile

__all__ = [
    "NEAR",
    "cosines",
    "near_rows",
    "next_row",
    "pair_products",
    "pairs_exist",
    "row_by_differences",
    "square_of",
    "sub_tile_columns",
    "sub_tiles",
]

# At or below this share of |a|^2 + |b|^2 a squared distance from a product has lost digits, and is
# found again from differences (csrc/common/pairs.h).
NEAR = tl.constexpr(0.125)


@triton.jit
def pairs_exist(a, a_mask, b, b_mask, UPPER: tl.constexpr):
    """Return which pairs of visited points are pairs: a < b, or all but a point with itself."""
    other = a[:, None] != b[None, :]
    if UPPER:
        other = a[:, None] < b[None, :]
    return a_mask[:, None] & b_mask[None, :] & other


@triton.jit
def pair_products(
    x, stride_n, stride_d, index, center, measures, count, rows_of_x, width, a_first, b_first,
    AS_STORED: tl.constexpr, PRECISION: tl.constexpr, SIDE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Return the products of a tile of pairs of points from the center.

    AS_STORED multiplies the points as they are, and shifts the products to the center.
    """
    a, b = a_first + tl.arange(0, SIDE), b_first + tl.arange(0, SIDE)
    a_rows, a_mask = load_rows(a, index, count, rows_of_x)
    b_rows, b_mask = load_rows(b, index, count, rows_of_x)
    product = product_tile(
        *(x, stride_n, stride_d, x, stride_n, stride_d, center, a_rows, a_mask, b_rows, b_mask),
        *(width, AS_STORED, PRECISION, SIDE, SIDE, DEPTH),
    )
    if AS_STORED:
        shifts = load_shifts(a, measures, count)[:, None]
        product -= shifts + load_shifts(b, measures, count)[None, :]
    return product


@triton.jit
def cosines(product, a_inverses, b_inverses):
    """Return cosines in [-1, 1], 0 where one vector is zero."""
    return tl.minimum(tl.maximum(product * (a_inverses * b_inverses), -1.0), 1.0)


@triton.jit
def square_of(product, a_squares, b_squares):
    """Return |a - b|^2, rounded once; twice the product, if formed first, would fill registers."""
    return 2 * (0.5 * (a_squares + b_squares) - product)


@triton.jit
def _halves(x, LOW: tl.constexpr):
    """Return the columns whose number has a bit of 0, and of 1, there."""
    rows: tl.constexpr = x.shape[0]
    half: tl.constexpr = x.shape[1] // 2
    x = tl.permute(tl.reshape(x, (rows, half // LOW, 2, LOW)), (0, 1, 3, 2))
    low, high = tl.split(x)
    return tl.reshape(low, (rows, half)), tl.reshape(high, (rows, half))


@triton.jit
def sub_tiles(x):
    """Return a quarter of a tile's columns each, an eighth of more than 64: see sub_tile_columns.

    By bits of their numbers that tell registers of one thread apart, whatever multiplies (mma.sync,
    wgmma, tcgen05): a sub-tile is taken out of a tile with no move.
    """
    even, odd = _halves(x, 1)
    a, b = _halves(even, 8)
    c, d = _halves(odd, 8)
    found = (a, b, c, d)
    if x.shape[1] > 64:
        found = _halves(a, 8) + _halves(b, 8) + _halves(c, 8) + _halves(d, 8)
    return found


@triton.jit
def sub_tile_columns(i: tl.constexpr, SIDE: tl.constexpr):
    """Return which columns of a tile a sub-tile holds."""
    deep: tl.constexpr = 2 if SIDE > 64 else 1  # how many higher bits are split on
    own = tl.arange(0, SIDE // (2 * 2**deep))
    high = own // 8
    for bit in tl.static_range(deep):
        high = high * 2 + (i >> bit) % 2
    return high * 16 + own % 8 * 2 + (i >> deep)


@triton.jit
def near_rows(
    products, a_first, b_first, measures, count,
    UPPER: tl.constexpr, RAW: tl.constexpr, UNIT: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """Return [SIDE] int32: which rows of a tile, given in sub-tiles, have a near pair.

    One with a squared distance that a function needs and a product cannot give.
    """
    found = tl.zeros((SIDE,), tl.int32)
    if RAW or UNIT:
        a = a_first + tl.arange(0, SIDE)
        a_mask, a_squares, a_inverses, _ = load_measures(a, measures, count)
        for i in tl.static_range(len(products)):
            tl.debug_barrier()  # one sub-tile after another: several at once spill
            b = b_first + sub_tile_columns(i, SIDE)
            b_mask, b_squares, b_inverses, _ = load_measures(b, measures, count)
            product = products[i]
            near = product != product
            if RAW:
                limit = (a_squares[:, None] + b_squares[None, :]) * NEAR
                near = square_of(product, a_squares[:, None], b_squares[None, :]) <= limit
            if UNIT:
                cosine = cosines(product, a_inverses[:, None], b_inverses[None, :])
                directed = tl.minimum(a_inverses[:, None], b_inverses[None, :]) > 0
                near = near | (directed & (2 - 2 * cosine <= 2 * NEAR))
            near = near & pairs_exist(a, a_mask, b, b_mask, UPPER)
            found = tl.maximum(found, tl.max(near.to(tl.int32), axis=1))
    return found


@triton.jit
def next_row(rows, after, SIDE: tl.constexpr):
    """Return the first row after one that is marked; SIDE if there is none."""
    own = tl.arange(0, SIDE)
    return tl.min(tl.where((rows > 0) & (own > after), own, SIDE), axis=0)


@triton.jit
def row_by_differences(
    x, stride_n, stride_d, index, center, measures, a, b_rows, b_mask, b_squares, width,
    SIDE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Return |a - b|^2, |a/|a| - b/|b||^2 and a.b of one visited point and some others.

    The first of points as they are, which differ exactly where they are close, the others from the
    center.
    """
    at = tl.cast(a, tl.int64)
    a_norm = tl.sqrt_rn(tl.load(measures + at))
    a_norm = tl.where(a_norm > 0, a_norm, 1.0)
    b_norms = tl.sqrt_rn(tl.where(b_squares > 0, b_squares, 1.0))
    if index is not None:
        at = tl.load(index + at)
    raw = tl.zeros((SIDE,), tl.float32)
    unit = tl.zeros((SIDE,), tl.float32)
    product = tl.zeros((SIDE,), tl.float32)
    for d in range(0, width, DEPTH):
        columns = d + tl.arange(0, DEPTH)
        part = load_vector(x + at * stride_n, stride_d, columns, width)[None, :]
        others = load_tile(x, stride_n, stride_d, b_rows, b_mask, columns, width)
        center_values = load_vector(center, 1, columns, width)[None, :]
        inside = b_mask[:, None] & (columns < width)[None, :]
        difference = tl.where(inside, part - others, 0.0)
        raw += tl.sum(difference * difference, axis=1)
        part, others = part - center_values, others - center_values
        product += tl.sum(tl.where(inside, part * others, 0.0), axis=1)
        # Divided, not multiplied by an inverse: x/|x| is 1.
        others = tl.div_rn(others, b_norms[:, None] + tl.zeros_like(others))
        difference = tl.where(inside, tl.div_rn(part, a_norm + tl.zeros_like(part)) - others, 0.0)
        unit += tl.sum(difference * difference, axis=1)
    return raw, unit, product
