"""Sums of outer products of rows, by tiles on and above the diagonal."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import native
from .finite import report_nonfinite
from .launching import Configuration, dot_precision, launch
from .rows import CenteredRows, residual_tile, row_places
from .tiles import upper_tile, upper_tiles

__all__ = ["gram"]

CHUNK = 4096  # rows whose products are added in float32, before float64
PROGRAMS = 528  # four for each multiprocessor of an H100: the target of splitting rows

# float32 keeps its digits in three tf32 products, whose operands fill the registers of sm_80: the
# default is the largest tile that spills nothing there. The second spills nothing from sm_90 on.
GRAM = (
    Configuration("64 x 64 x 16", 4, 3, {"SIDE": 64, "DEPTH": 16}),
    Configuration("128 x 128 x 16", 8, 3, {"SIDE": 128, "DEPTH": 16}),
)
FOLD = (Configuration("32 x 32", 4, 1, {"SIDE": 32}),)


@triton.jit
def _gram(
    x, stride_n, stride_d, index, centers, stride_center_n, stride_center_d, keys, weights, count,
    rows_of_x, limit, width, partial, chunks_each,
    PRECISION: tl.constexpr, CHUNK: tl.constexpr, SIDE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    i, j, valid = upper_tile(tl.program_id(0), tl.cdiv(width, SIDE))
    if not valid:
        return
    left = i * SIDE + tl.arange(0, SIDE)
    right = j * SIDE + tl.arange(0, SIDE)
    split = tl.program_id(1).to(tl.int64)
    # Inside a tile 32 bits are enough, and half the registers.
    corner = partial + (split * width + i * SIDE) * width + j * SIDE
    within = tl.arange(0, SIDE)
    places = corner + within[:, None] * width + within[None, :]
    mask = (left[:, None] < width) & (right[None, :] < width)
    begin = split * chunks_each * CHUNK
    last = tl.minimum(begin + chunks_each * CHUNK, count)
    for first in range(begin, last, CHUNK):
        stop = tl.minimum(first + CHUNK, last)
        total = tl.zeros((SIDE, SIDE), tl.float32)
        for start in range(first, stop, DEPTH):
            r = start + tl.arange(0, DEPTH).to(tl.int64)
            rows, center_rows, row_mask, scales = row_places(
                r, stop, index, keys, weights, rows_of_x, limit, True
            )
            a = residual_tile(
                *(x, stride_n, stride_d, centers, stride_center_n, stride_center_d, keys, weights),
                *(rows, center_rows, row_mask, scales, left, width),
            )
            b = residual_tile(
                *(x, stride_n, stride_d, centers, stride_center_n, stride_center_d, keys, weights),
                *(rows, center_rows, row_mask, scales, right, width),
            )
            total = tl.dot(tl.trans(a), b, total, input_precision=PRECISION)
        wide = total.to(tl.float64)
        if first > begin:
            wide += tl.load(places, mask=mask, other=0.0)
        tl.store(places, wide, mask=mask)
        tl.debug_barrier()  # what one thread stores, another may load for the next chunk


@triton.jit
def _fold(partial, out, splits, width, ADD: tl.constexpr, SIDE: tl.constexpr):
    i, j, valid = upper_tile(tl.program_id(0), tl.cdiv(width, SIDE))
    if not valid:
        return
    left = (i * SIDE + tl.arange(0, SIDE)).to(tl.int64)
    right = (j * SIDE + tl.arange(0, SIDE)).to(tl.int64)
    upper = left[:, None] * width + right[None, :]
    lower = right[None, :] * width + left[:, None]
    mask = (left[:, None] <= right[None, :]) & (right[None, :] < width)
    total = tl.zeros((SIDE, SIDE), tl.float64)
    for split in range(0, splits):
        part = partial + tl.cast(split, tl.int64) * width * width
        total += tl.load(part + upper, mask=mask, other=0.0)
    above, below = total, total
    if ADD:
        above += tl.load(out + upper, mask=mask, other=0.0)
        below += tl.load(out + lower, mask=mask, other=0.0)
        tl.debug_barrier()
    tl.store(out + upper, above, mask=mask)
    tl.store(out + lower, below, mask=mask)


def gram(rows: CenteredRows, out: Tensor, op: str = "", add: bool = False) -> None:
    """Write, or add, the sum of a_r a_r^T to a float64 matrix; a_r has the root of its weight.

    ``op`` is named if a row of x is NaN or Inf; "" does not look.
    """
    width, count = rows.x.shape[1], rows.count
    if not count or not width:
        if not add:
            out.zero_()
        return
    chunks = -(-count // CHUNK)
    tiles = upper_tiles(-(-width // GRAM[0].tiles["SIDE"]))
    each = -(-chunks // min(chunks, max(1, PROGRAMS // tiles)))
    splits = -(-chunks // each)
    partial = native.allocate((splits, width, width), torch.float64, out.device)
    launch(
        _gram,
        lambda t: (upper_tiles(triton.cdiv(width, t["SIDE"])), splits),
        GRAM,
        *(*rows.arguments(), partial, each),
        key=("width",),
        PRECISION=dot_precision(),
        CHUNK=CHUNK,
    )
    launch(
        _fold,
        lambda t: (upper_tiles(triton.cdiv(width, t["SIDE"])),),
        FOLD,
        *(partial, out, splits, width),
        ADD=add,
    )
    if op:
        # A NaN or Inf is in its own square, on the diagonal.
        finite = out.diagonal().isfinite().all()
        report_nonfinite(op, "x", finite, rows.x, rows.index, rows.keys, rows.limit)
