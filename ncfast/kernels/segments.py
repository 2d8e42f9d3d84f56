"""Mean and spread of every class, each owned by one program or, when long, by a few in order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import device_errors, native
from .labels import PIECE, Pieces
from .launching import Configuration, launch
from .tiles import complain, first_nonfinite, load_tile, load_vector

__all__ = ["segment_moments"]

# Of the shapes that spill nothing on sm_80, sm_90a and sm_100a in float32 and bfloat16, the default
# has the most loads in flight.
MOMENTS = (
    Configuration("8 x 1024", 8, 2, {"ROWS": 8, "COLUMNS": 1024}),
    Configuration("8 x 512", 4, 2, {"ROWS": 8, "COLUMNS": 512}),
    Configuration("8 x 256", 2, 2, {"ROWS": 8, "COLUMNS": 256}),
    Configuration("16 x 256", 4, 2, {"ROWS": 16, "COLUMNS": 256}),
)
MERGE = (Configuration("512 columns", 4, 2, {"COLUMNS": 512}),)


@triton.jit
def _load_run(x, stride_n, stride_d, order, r, end, columns, width, base, ROWS: tl.constexpr):
    """Load tokens [r, end) of the order, measured from a base row."""
    places = r + tl.arange(0, ROWS)
    kept = places < end
    rows = tl.load(order + places, mask=kept, other=0)
    tile = load_tile(x, stride_n, stride_d, rows, kept, columns, width)
    inside = kept[:, None] & (columns[None, :] < width)
    return tl.where(inside, tile - base[None, :], 0.0), rows, inside


@triton.jit(do_not_specialize=["slot"])
def _segment_moments(
    x, stride_n, stride_d, order, begins, piece_class, piece_ends, partial_ends, slots, base,
    stride_base_n, stride_base_d, means, m2, partial_means, partial_m2, table, slot, num_classes,
    width,
    PIECE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    piece = tl.program_id(0)
    c = tl.load(piece_class + piece)
    if c >= num_classes:
        return
    first = tl.load(begins + c)
    stop = tl.load(begins + c + 1)
    pieces = tl.cdiv(stop - first, PIECE)
    k = piece - (tl.load(piece_ends + c) - pieces)
    begin = first + k * PIECE
    end = tl.minimum(begin + PIECE, stop)
    home = tl.load(slots + c) if slots is not None else c
    out_mean = means + home * width
    out_m2 = m2 + home
    if pieces > 1:
        home = tl.load(partial_ends + c) - pieces + k
        out_mean = partial_means + home * width
        out_m2 = partial_m2 + home
    spread = 0.0
    for d in range(0, width, COLUMNS):
        columns = d + tl.arange(0, COLUMNS)
        # Measured from the piece's first token: equal tokens have no spread at all, and a mean far
        # from the origin costs no digits.
        row = tl.load(order + begin)
        origin = load_vector(x + row * stride_n, stride_d, columns, width)
        mean = tl.zeros((COLUMNS,), tl.float32)
        squares = tl.zeros((COLUMNS,), tl.float32)
        for r in range(begin, end, ROWS):
            tile, _, inside = _load_run(
                x, stride_n, stride_d, order, r, end, columns, width, origin, ROWS
            )
            before = (r - begin).to(tl.float32)
            added = tl.minimum(end - r, ROWS).to(tl.float32)
            own = tl.sum(tile, axis=0) / added
            gap = own - mean
            share = added / (before + added)
            # Chan's merge; this order of factors keeps 0 x Inf away from huge values.
            tile = tl.where(inside, tile - own[None, :], 0.0)
            squares += tl.sum(tile * tile, axis=0) + gap * (gap * (before * share))
            mean += gap * share
        absolute = mean + origin
        if tl.max((absolute - absolute != 0).to(tl.int32), axis=0) > 0:  # NaN, Inf or overflow
            nothing = tl.zeros((COLUMNS,), tl.float32)
            for r in range(begin, end, ROWS):
                tile, rows, inside = _load_run(
                    x, stride_n, stride_d, order, r, end, columns, width, nothing, ROWS
                )
                complain(table, slot, first_nonfinite(tile, rows))
        if base is not None:
            absolute = mean + (
                origin - load_vector(base + c * stride_base_n, stride_base_d, columns, width)
            )
        tl.store(out_mean + columns, absolute, mask=columns < width)
        spread += tl.sum(squares, axis=0)
    tl.store(out_m2, spread)


@triton.jit
def _merge_pieces(
    long_class, begins, partial_ends, slots, partial_means, partial_m2, means, m2, num_classes,
    width,
    PIECE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    c = tl.load(long_class + tl.program_id(0))
    if c >= num_classes:
        return
    count = tl.load(begins + c + 1) - tl.load(begins + c)
    pieces = tl.cdiv(count, PIECE)
    first = tl.load(partial_ends + c) - pieces
    home = tl.load(slots + c) if slots is not None else c
    # float64: a class of a million tokens is a chain of 4,000 merges.
    spread = tl.sum(tl.zeros((COLUMNS,), tl.float64), axis=0)
    for k in range(0, pieces):
        spread += tl.load(partial_m2 + first + k).to(tl.float64)
    for d in range(0, width, COLUMNS):
        columns = d + tl.arange(0, COLUMNS)
        mean = tl.zeros((COLUMNS,), tl.float64)
        squares = tl.zeros((COLUMNS,), tl.float64)
        for k in range(0, pieces):
            part = partial_means + (first + k) * width
            gap = load_vector(part, 1, columns, width).to(tl.float64) - mean
            before = tl.cast(k * PIECE, tl.float64)
            added = tl.minimum(count - k * PIECE, PIECE).to(tl.float64)
            share = added / (before + added)
            squares += gap * (gap * (before * share))
            mean += gap * share
        tl.store(means + home * width + columns, mean.to(tl.float32), mask=columns < width)
        spread += tl.sum(squares, axis=0)
    tl.store(m2 + home, spread.to(tl.float32))


def segment_moments(
    op: str,
    x: Tensor,
    pieces: Pieces,
    means: Tensor,
    m2: Tensor,
    slots: Tensor | None = None,
    base: Tensor | None = None,
) -> None:
    """Write mean and spread of every class that occurs; rows of other classes are left alone.

    ``op`` is named if a feature is NaN or Inf. ``means`` [S, D] and ``m2`` [S] are float32;
    ``slots`` [V] int64 say which row is whose, None: its own number. ``base`` [V, D] is what the
    tokens of each class are measured from; None: the origin.
    """
    num_classes, width = pieces.counts.shape[0], x.shape[1]
    table = device_errors.table(x.device)
    slot = device_errors.declare(f"{op}: x[{{}}] holds a NaN or Inf; expected finite values")
    partial_means = native.allocate((pieces.partials, width), torch.float32, x.device)
    partial_m2 = native.allocate((pieces.partials,), torch.float32, x.device)
    stride_base = (0, 0) if base is None else base.stride()
    # In float16 the first spills two registers on sm_90a.
    moments = MOMENTS[1:] if x.dtype == torch.float16 else MOMENTS
    launch(
        _segment_moments,
        lambda tiles: (pieces.piece_class.shape[0],),
        moments,
        *(x, *x.stride(), pieces.order, pieces.begins, pieces.piece_class, pieces.piece_ends),
        *(pieces.partial_ends, slots, base, *stride_base, means, m2, partial_means, partial_m2),
        *(table, slot, num_classes, width),
        key=("width",),
        PIECE=PIECE,
    )
    launch(
        _merge_pieces,
        lambda tiles: (pieces.long_class.shape[0],),
        MERGE,
        *(pieces.long_class, pieces.begins, pieces.partial_ends, slots),
        *(partial_means, partial_m2, means, m2, num_classes, width),
        PIECE=PIECE,
    )
