"""Mean and spread of every class, each by one program or, when long, by a few, merged in order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import device_errors, native
from .labels import SEGMENT, Segments
from .launching import Configuration, launch
from .tiles import first_nonfinite, load_tile, load_vector, report_error

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
def _load_run(x, stride_n, stride_d, order, r, end, columns, width, center, ROWS: tl.constexpr):
    """Load tokens [r, end) of the order, less a center."""
    places = r + tl.arange(0, ROWS)
    row_mask = places < end
    rows = tl.load(order + places, mask=row_mask, other=0)
    tile = load_tile(x, stride_n, stride_d, rows, row_mask, columns, width)
    inside = row_mask[:, None] & (columns[None, :] < width)
    return tl.where(inside, tile - center[None, :], 0.0), rows, inside


@triton.jit(do_not_specialize=["slot"])
def _segment_moments(
    x, stride_n, stride_d, order, begins, segment_class, segment_ends, partial_ends, slots, centers,
    stride_center_n, stride_center_d, means, m2, partial_means, partial_m2, table, slot,
    num_classes, width,
    SEGMENT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    segment = tl.program_id(0)
    c = tl.load(segment_class + segment)
    if c >= num_classes:
        return
    first = tl.load(begins + c)
    stop = tl.load(begins + c + 1)
    segments = tl.cdiv(stop - first, SEGMENT)
    k = segment - (tl.load(segment_ends + c) - segments)
    begin = first + k * SEGMENT
    end = tl.minimum(begin + SEGMENT, stop)
    out_row = tl.load(slots + c) if slots is not None else c
    out_mean = means + out_row * width
    out_m2 = m2 + out_row
    if segments > 1:
        out_row = tl.load(partial_ends + c) - segments + k
        out_mean = partial_means + out_row * width
        out_m2 = partial_m2 + out_row
    spread = 0.0
    for d in range(0, width, COLUMNS):
        columns = d + tl.arange(0, COLUMNS)
        # Less the segment's first token: equal tokens have no spread at all, and a mean far from 0
        # costs no digits.
        row = tl.load(order + begin)
        pivot = load_vector(x + row * stride_n, stride_d, columns, width)
        mean = tl.zeros((COLUMNS,), tl.float32)
        squares = tl.zeros((COLUMNS,), tl.float32)
        for r in range(begin, end, ROWS):
            tile, _, inside = _load_run(
                x, stride_n, stride_d, order, r, end, columns, width, pivot, ROWS
            )
            before = (r - begin).to(tl.float32)
            added = tl.minimum(end - r, ROWS).to(tl.float32)
            own = tl.sum(tile, axis=0) / added
            difference = own - mean
            share = added / (before + added)
            # Chan's merge; this order of factors keeps 0 x Inf away from huge values.
            tile = tl.where(inside, tile - own[None, :], 0.0)
            squares += tl.sum(tile * tile, axis=0) + difference * (difference * (before * share))
            mean += difference * share
        absolute = mean + pivot
        if tl.max((absolute - absolute != 0).to(tl.int32), axis=0) > 0:  # NaN, Inf or overflow
            nothing = tl.zeros((COLUMNS,), tl.float32)
            for r in range(begin, end, ROWS):
                tile, rows, inside = _load_run(
                    x, stride_n, stride_d, order, r, end, columns, width, nothing, ROWS
                )
                report_error(table, slot, first_nonfinite(tile, rows))
        if centers is not None:
            absolute = mean + (
                pivot - load_vector(centers + c * stride_center_n, stride_center_d, columns, width)
            )
        tl.store(out_mean + columns, absolute, mask=columns < width)
        spread += tl.sum(squares, axis=0)
    tl.store(out_m2, spread)


@triton.jit
def _merge_segments(
    long_class, begins, partial_ends, slots, partial_means, partial_m2, means, m2, num_classes,
    width,
    SEGMENT: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    c = tl.load(long_class + tl.program_id(0))
    if c >= num_classes:
        return
    count = tl.load(begins + c + 1) - tl.load(begins + c)
    segments = tl.cdiv(count, SEGMENT)
    first = tl.load(partial_ends + c) - segments
    out_row = tl.load(slots + c) if slots is not None else c
    # float64: a class of a million tokens is a chain of 4,000 merges.
    spread = tl.sum(tl.zeros((COLUMNS,), tl.float64), axis=0)
    for k in range(0, segments):
        spread += tl.load(partial_m2 + first + k).to(tl.float64)
    for d in range(0, width, COLUMNS):
        columns = d + tl.arange(0, COLUMNS)
        mean = tl.zeros((COLUMNS,), tl.float64)
        squares = tl.zeros((COLUMNS,), tl.float64)
        for k in range(0, segments):
            part = partial_means + (first + k) * width
            difference = load_vector(part, 1, columns, width).to(tl.float64) - mean
            before = tl.cast(k * SEGMENT, tl.float64)
            added = tl.minimum(count - k * SEGMENT, SEGMENT).to(tl.float64)
            share = added / (before + added)
            squares += difference * (difference * (before * share))
            mean += difference * share
        tl.store(means + out_row * width + columns, mean.to(tl.float32), mask=columns < width)
        spread += tl.sum(squares, axis=0)
    tl.store(m2 + out_row, spread.to(tl.float32))


def segment_moments(
    op: str,
    x: Tensor,
    segments: Segments,
    means: Tensor,
    m2: Tensor,
    slots: Tensor | None = None,
    centers: Tensor | None = None,
) -> None:
    """Write mean and spread of every class that occurs; rows of other classes are left alone.

    ``op`` is named if a feature is NaN or Inf. ``means`` [S, D] and ``m2`` [S] are float32;
    ``slots`` [V] int64 say which row is whose, None: its own number. ``centers`` [V, D] are
    subtracted from the tokens of each class; None: 0.
    """
    num_classes, width = segments.counts.shape[0], x.shape[1]
    table = device_errors.table(x.device)
    slot = device_errors.declare(f"{op}: x[{{}}] holds a NaN or Inf; expected finite values")
    partial_means = native.allocate((segments.partials, width), torch.float32, x.device)
    partial_m2 = native.allocate((segments.partials,), torch.float32, x.device)
    stride_centers = (0, 0) if centers is None else centers.stride()
    # In float16 the first spills two registers on sm_90a.
    moments = MOMENTS[1:] if x.dtype == torch.float16 else MOMENTS
    launch(
        _segment_moments,
        lambda tiles: (segments.segment_class.shape[0],),
        moments,
        *(
            x,
            *x.stride(),
            segments.order,
            segments.begins,
            segments.segment_class,
            segments.segment_ends,
        ),
        *(
            segments.partial_ends,
            slots,
            centers,
            *stride_centers,
            means,
            m2,
            partial_means,
            partial_m2,
        ),
        *(table, slot, num_classes, width),
        key=("width",),
        SEGMENT=SEGMENT,
    )
    launch(
        _merge_segments,
        lambda tiles: (segments.long_class.shape[0],),
        MERGE,
        *(segments.long_class, segments.begins, segments.partial_ends, slots),
        *(partial_means, partial_m2, means, m2, num_classes, width),
        SEGMENT=SEGMENT,
    )
