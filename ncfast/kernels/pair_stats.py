"""Sums, extremes and histograms of functions of every pair: nothing of V x V is ever stored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import device_errors, native
from .labels import CHECK
from .launching import Configuration, dot_precision, launch
from .pair_gradients import pair_stats_backward
from .pair_points import OP, PointSet, load_points, measure
from .pair_terms import on_device, term_codes, term_values
from .pairs import form_tile, pairs_exist
from .tiles import NOWHERE, complain, grouped_upper_tile, upper_tiles

__all__ = ["pair_stats", "pair_stats_backward"]

PROGRAMS = 528  # at most, four for each multiprocessor of an H100: each keeps its own sums
GROUP = 8  # of tiles on a side that programs at work share; fewer than 64 tiles lie in one cache
SPAN = tl.constexpr(256)  # bins counted at a time
PARTS = 8  # of a term's sums: count, sum, squares, deviations, coincident, least, greatest, nothing
# Three tf32 products, whose operands fill the registers of sm_80: 32 deep, bfloat16 spilled there.
VISIT = (Configuration("64 x 64 x 16", 8, 3, {"SIDE": 64, "CHUNK": 32, "DEPTH": 16}),)


@triton.jit(do_not_specialize=["slot"])
def _check_edges(edges, bins, table, slot, ROWS: tl.constexpr):
    p = tl.program_id(0)
    edge = edges + p * (bins + 1)
    low = tl.load(edge)
    width = (tl.load(edge + bins) - low) / tl.cast(bins, tl.float64)
    odd = ((width > 0) & (width - width == 0)) == 0
    for first in range(0, bins + 1, ROWS):
        i = first + tl.arange(0, ROWS)
        away = tl.load(edge + i, mask=i <= bins, other=0.0) - low - i.to(tl.float64) * width
        uneven = (i <= bins) & ((tl.abs(away) <= 1e-3 * width) == 0)
        odd = odd | (tl.max(uneven.to(tl.int32), axis=0) > 0)
    complain(table, slot, tl.where(odd, p.to(tl.int64), NOWHERE))


@triton.jit
def _count(values, has, edges, bins, histogram):
    """Count values by bin: floor((value - first) B / (last - first)), the last edge in the last."""
    low, high = tl.load(edges), tl.load(edges + bins)
    scale = (tl.cast(bins, tl.float64) / (high - low)).to(tl.float32)
    inside = has & (values >= low.to(tl.float32)) & (values <= high.to(tl.float32))
    place = tl.where(inside, (values - low.to(tl.float32)) * scale, 0.0).to(tl.int32)
    place = tl.ravel(tl.where(inside, tl.minimum(place, bins - 1), -1))
    for first in range(0, bins, SPAN):
        here = (place >= first) & (place < first + SPAN)
        counts = tl.histogram(tl.where(here, place - first, 0), SPAN, mask=here)
        bin = first + tl.arange(0, SPAN)
        # Whole numbers: adding them in any order is exact.
        tl.atomic_add(
            histogram + bin, counts.to(tl.int64), mask=(counts > 0) & (bin < bins), sem="relaxed"
        )


@triton.jit
def _add_term(sums, p, pairs, coincident, total, squares, away, least, most, PARTS: tl.constexpr):
    """Add what a tile holds of a term to its sums."""
    part = tl.arange(0, PARTS) - 8 * p
    added = tl.where(part == 0, tl.sum(tl.sum(pairs, axis=1), axis=0).to(tl.float64), 0.0)
    added += tl.where(part == 1, tl.sum(tl.sum(total, axis=1), axis=0).to(tl.float64), 0.0)
    added += tl.where(part == 2, tl.sum(tl.sum(squares, axis=1), axis=0), 0.0)
    added += tl.where(part == 3, tl.sum(tl.sum(away, axis=1), axis=0).to(tl.float64), 0.0)
    added += tl.where(part == 4, tl.sum(tl.sum(coincident, axis=1), axis=0).to(tl.float64), 0.0)
    low = tl.min(tl.min(least, axis=1), axis=0).to(tl.float64)
    high = tl.max(tl.max(most, axis=1), axis=0).to(tl.float64)
    ends = tl.where(part == 5, tl.minimum(sums, low), tl.maximum(sums, high))
    return tl.where((part == 5) | (part == 6), ends, sums + added)


@triton.jit
def _visit_term(
    p,
    code,
    aim,
    a_first,
    b_first,
    index,
    squares,
    half_variances,
    count,
    rows_of_x,
    own,
    edges,
    bins,
    histogram,
    sums,
    PARTS: tl.constexpr,
    RAW: tl.constexpr,
    UNIT: tl.constexpr,
    CHUNK: tl.constexpr,
    SIDE: tl.constexpr,
):
    """Add up one term over a tile, a few rows at a time."""
    b, _b_rows, b_kept, b_squares, b_half = load_points(
        b_first, index, squares, half_variances, count, rows_of_x, SIDE
    )
    pairs = tl.zeros((CHUNK, SIDE), tl.int32)
    coincident = tl.zeros((CHUNK, SIDE), tl.int32)
    total = tl.zeros((CHUNK, SIDE), tl.float32)
    powers = tl.zeros((CHUNK, SIDE), tl.float64)  # the square of 1e20 is infinite in float32
    away = tl.zeros((CHUNK, SIDE), tl.float32)
    least = tl.full((CHUNK, SIDE), float("inf"), tl.float32)
    most = tl.full((CHUNK, SIDE), float("-inf"), tl.float32)
    for c in range(0, SIDE, CHUNK):
        a, _, a_kept, a_squares, a_half = load_points(
            a_first + c, index, squares, half_variances, count, rows_of_x, CHUNK
        )
        exists = pairs_exist(a, a_kept, b, b_kept, True)
        home = own + c * SIDE + tl.arange(0, CHUNK)[:, None] * SIDE + tl.arange(0, SIDE)[None, :]
        value, has, defined, _ = term_values(
            *(code, exists, home, home + SIDE * SIDE, home + 2 * SIDE * SIDE),
            *(a_squares, b_squares, a_half, b_half, RAW, UNIT),
        )
        kept = tl.where(has, value, 0.0)
        pairs += has.to(tl.int32)
        coincident += (exists & (defined == 0)).to(tl.int32)
        total += kept
        powers += kept.to(tl.float64) * kept.to(tl.float64)
        away += tl.where(has, tl.abs(value - aim), 0.0)
        least = tl.minimum(least, tl.where(has, value, float("inf")))
        most = tl.maximum(most, tl.where(has, value, float("-inf")))
        if edges is not None:
            _count(value, has, edges + p * (bins + 1), bins, histogram + p * bins)
    return _add_term(sums, p, pairs, coincident, total, powers, away, least, most, PARTS)


@triton.jit
def _visit_pairs(
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
    aims,
    terms,
    edges,
    bins,
    histogram,
    partials,
    scratch,
    side,
    group,
    tiles,
    PARTS: tl.constexpr,
    RAW: tl.constexpr,
    UNIT: tl.constexpr,
    PRECISION: tl.constexpr,
    CHUNK: tl.constexpr,
    SIDE: tl.constexpr,
    DEPTH: tl.constexpr,
):
    place = tl.arange(0, PARTS)
    sums = tl.where(place % 8 == 5, float("inf"), tl.where(place % 8 == 6, float("-inf"), 0.0))
    sums = sums.to(tl.float64)
    own = scratch + tl.program_id(0).to(tl.int64) * 3 * SIDE * SIDE
    for t in range(tl.program_id(0), tiles, tl.num_programs(0)):
        i, j, valid = grouped_upper_tile(t, side, group)
        if valid:
            form_tile(
                *(x, stride_n, stride_d, index, center, stride_center, squares, half_variances),
                *(count, rows_of_x, width, i * SIDE, j * SIDE, own, own + SIDE * SIDE),
                *(own + 2 * SIDE * SIDE, SIDE, True, RAW, UNIT, PRECISION, CHUNK, SIDE, DEPTH),
            )
            for p in range(0, terms):
                sums = _visit_term(
                    *(p, tl.load(codes + p), tl.load(aims + p), i * SIDE, j * SIDE, index),
                    *(squares, half_variances, count, rows_of_x, own, edges, bins, histogram),
                    *(sums, PARTS, RAW, UNIT, CHUNK, SIDE),
                )
            tl.debug_barrier()  # before another tile is stored
    tl.store(partials + tl.program_id(0).to(tl.int64) * PARTS + place, sums)


def _bins(edges: Tensor | None) -> tuple[Tensor | None, int]:
    """Return contiguous edges that have been checked, and the number of bins."""
    if edges is None:
        return None, 0
    launch(
        _check_edges,
        lambda t: (edges.shape[0],),
        CHECK,
        *(edges.contiguous(), edges.shape[1] - 1, device_errors.table(edges.device)),
        device_errors.declare(
            f"{OP}: edges[{{}}] is not of finite ascending edges of bins of one width"
        ),
    )
    return edges.contiguous(), edges.shape[1] - 1


def _visit(
    points: PointSet,
    codes: Tensor,
    targets: Sequence[float],
    edges: Tensor | None,
    bins: int,
    histogram: Tensor,
) -> Tensor:
    """Return the sums [programs, P, 8] of each program's tiles; count the values of all."""
    device, count = points.squares.device, len(targets)
    aims = on_device(targets, torch.float32, device)
    tile = VISIT[0].tiles["SIDE"]
    side = triton.cdiv(points.rows.count, tile)
    group = GROUP if side > 2 * GROUP else 1
    tiles = group * group * upper_tiles(triton.cdiv(side, group))
    programs = min(max(tiles, 1), PROGRAMS)
    parts = triton.next_power_of_2(PARTS * count)
    partials = native.allocate((programs, parts), torch.float64, device)
    scratch = native.allocate((programs, 3, tile, tile), torch.float32, device)
    launch(
        _visit_pairs,
        lambda t: (programs,),
        VISIT,
        *(*points.arguments(), codes, aims, count, edges, bins, histogram, partials),
        *(scratch, side, group, tiles),
        PARTS=parts,
        RAW=points.raw,
        UNIT=points.unit,
        PRECISION=dot_precision(),
    )
    return partials[:, : PARTS * count].view(programs, count, PARTS)


def pair_stats(
    points: Tensor,
    variances: Tensor | None,
    center: Tensor,
    index: Tensor | None,
    edges: Tensor | None,
    kinds: Sequence[int],
    powers: Sequence[int],
    targets: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return stats [P, 6], histogram [P, B] and coincident [P]; programs add in a fixed order."""
    device, terms = points.device, len(kinds)
    found = measure(points, variances, center, index, kinds)
    edges, bins = _bins(edges)
    histogram = native.allocate((terms, bins), torch.int64, device).zero_()
    sums = _visit(found, term_codes(kinds, powers, device), targets, edges, bins, histogram)
    totals = sums[:, :, :5].sum(0)
    empty = totals[:, 0] == 0
    stats = native.allocate((terms, 6), torch.float64, device)
    stats[:, :3] = totals[:, :3]
    stats[:, 3] = sums[:, :, 5].amin(0).masked_fill(empty, float("nan"))
    stats[:, 4] = sums[:, :, 6].amax(0).masked_fill(empty, float("nan"))
    stats[:, 5] = totals[:, 3]
    coincident = native.allocate((terms,), torch.int64, device)
    coincident.copy_(totals[:, 4])
    return stats, histogram, coincident
