"""What kernels share: loading and multiplying tiles, walking a triangle, reporting errors."""

from __future__ import annotations

import triton
import triton.language as tl

NOWHERE = tl.constexpr(2**63 - 1)  # as device_errors.NOWHERE
# BAND x MIN_SPLITS is as many programs as an H100 has multiprocessors; PROGRAMS, two for each,
# is the target of splitting columns.
BAND, MIN_SPLITS, PROGRAMS = 8, 16, 264


@triton.jit
def load_raw_tile(pointer, stride_row, stride_column, rows, token_mask, columns, width):
    """Load rows (int64) of a matrix of any strides as they are; 0 where masked or off the edge.

    For dots alone: the interpreter cannot compute on bfloat16 in any other way.
    """
    # int64 for columns too: those of a transposed matrix lie N apart.
    offsets = rows[:, None] * stride_row + columns[None, :].to(tl.int64) * stride_column
    mask = token_mask[:, None] & (columns[None, :] < width)
    return tl.load(pointer + offsets, mask=mask, other=0.0)


@triton.jit
def load_tile(pointer, stride_row, stride_column, rows, token_mask, columns, width):
    """Load rows (int64) of a matrix of any strides as float32; 0 where masked or off the edge."""
    tile = load_raw_tile(pointer, stride_row, stride_column, rows, token_mask, columns, width)
    return tile.to(tl.float32)


@triton.jit
def load_vector(pointer, stride, columns, width):
    """Load a row as float32; 0 off the edge."""
    offsets = columns.to(tl.int64) * stride
    return tl.load(pointer + offsets, mask=columns < width, other=0.0).to(tl.float32)


@triton.jit
def product_tile(
    x, stride_n, stride_d, head, stride_head_n, stride_head_d, center, tokens, token_mask,
    rows, row_mask, width,
    RAW: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):  # fmt: skip
    """Return products of tokens and rows of a head (int64 both), less a center if there is one.

    RAW multiplies what was loaded as it is, without a center. Masked rows are 0.
    """
    product = tl.zeros((ROWS, COLUMNS), tl.float32)
    for d in range(0, width, DEPTH):
        depth = d + tl.arange(0, DEPTH)
        if RAW:
            a = load_raw_tile(x, stride_n, stride_d, tokens, token_mask, depth, width)
            b = load_raw_tile(head, stride_head_n, stride_head_d, rows, row_mask, depth, width)
        else:
            a = load_tile(x, stride_n, stride_d, tokens, token_mask, depth, width)
            b = load_tile(head, stride_head_n, stride_head_d, rows, row_mask, depth, width)
            if center is not None:
                center_values = load_vector(center, 1, depth, width)[None, :]
                a = tl.where(token_mask[:, None], a - center_values, 0.0)
                b = tl.where(row_mask[:, None], b - center_values, 0.0)
        product = tl.dot(a, tl.trans(b), product, input_precision=PRECISION)
    return product


@triton.jit
def banded_block(program, blocks, splits, BAND: tl.constexpr):
    """Return a program's block of rows and its split of columns, BAND blocks with every split.

    Programs at work together then share rows and columns. Row block by row block, all the rows of
    8,192 tokens of width 4,096 (64 MiB) were read again for every tile of classes.
    """
    first = program // (BAND * splits) * BAND
    height = tl.minimum(BAND, blocks - first)
    within = program - first * splits
    return first + within % height, within // height


def splits_of(rows: int, columns: int, tiles: dict[str, int]) -> tuple[int, int]:
    """Return how many columns a split has, in whole tiles, and how many splits there are."""
    blocks, steps = -(-rows // tiles["ROWS"]), -(-columns // tiles["COLUMNS"])
    splits = min(steps, max(MIN_SPLITS, PROGRAMS // max(blocks, 1)))
    each = -(-steps // splits) * tiles["COLUMNS"]
    return each, -(-columns // each)


@triton.jit
def first_nonfinite(tile, rows):
    """Return the first of the rows (int64) that holds a NaN or Inf, or NOWHERE."""
    bad = tl.max((tile - tile != 0).to(tl.int32), axis=1)
    return tl.min(tl.where(bad > 0, rows, NOWHERE), axis=0)


@triton.jit
def report_error(table, slot, position):
    """Keep the first position of an error; NOWHERE says there is none."""
    tl.atomic_min(table + slot, position, mask=position != NOWHERE, sem="relaxed")


@triton.jit
def upper_tile(program, side):
    """Return the row and column of a tile on or above the diagonal, and whether there is one.

    Rows r and side - 1 - r of the triangle have side + 1 tiles together: the triangle is a
    rectangle of ceil(side / 2) x (side + 1), whose middle row is half empty when side is odd.
    """
    r = program // (side + 1)
    c = program % (side + 1)
    low = c < side - r
    row = tl.where(low, r, side - 1 - r)
    column = tl.where(low, r + c, c - 1)
    return row, column, low | (side - 1 - r != r)


def upper_tiles(side: int) -> int:
    """Return how many programs :func:`upper_tile` needs."""
    return (side + 1) // 2 * (side + 1)


@triton.jit
def grouped_upper_tile(program, side, group):
    """Walk the triangle by squares of group x group tiles, so that those at work share their rows.

    Squares on the diagonal and at the edges have tiles that are none.
    """
    square = program // (group * group)
    row, column, valid = upper_tile(square, tl.cdiv(side, group))
    row = row * group + program % (group * group) // group
    column = column * group + program % group
    return row, column, valid & (row <= column) & (column < side)
