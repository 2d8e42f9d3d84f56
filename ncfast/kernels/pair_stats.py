"""Sums, extremes and histograms of functions of every pair: nothing of V x V is ever stored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import native
from .launching import Configuration, architecture, dot_precision, launch
from .pair_functions import ENERGY, RIESZ, function_codes, function_values, on_device
from .pair_gradients import pair_stats_backward
from .pair_histogram import checked_bins, count_by_bin
from .pair_points import PointSet, load_measures, load_rows, measure
from .pair_sums import PARTS, add_energies, add_values, energy_sums
from .pairs import (
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
from .tiles import grouped_upper_tile, upper_tiles

__all__ = ["pair_stats", "pair_stats_backward"]

PROGRAMS = 528  # at most, four for each multiprocessor of an H100: each keeps its own sums
GROUP = 8  # of tiles on a side that programs at work share; fewer than 64 tiles lie in one cache
NEAR_DEPTH = tl.constexpr(32)  # columns at a time of rows that are found from differences
# The largest tiles that spill nothing on sm_80 and sm_90a, where a third stage spilled 3 times.
# On sm_100a the first spilled 27 times, and counting by bin 13 times on sm_90a, float16 3 times:
# all these take SMALL.
NARROW = (
    Configuration("128 x 128 x 64", 8, 2, {"SIDE": 128, "DEPTH": 64}),
    Configuration("128 x 128 x 64, 3 stages", 8, 3, {"SIDE": 128, "DEPTH": 64}),
    Configuration("64 x 64 x 64", 4, 3, {"SIDE": 64, "DEPTH": 64}),
)
SMALL = (
    Configuration("64 x 64 x 64", 4, 3, {"SIDE": 64, "DEPTH": 64}),
    Configuration("64 x 64 x 32", 4, 4, {"SIDE": 64, "DEPTH": 32}),
)
# Three tf32 products, whose operands fill the registers of sm_80. With energies 4 warps spilled 97
# times on sm_100a: those take 8.
WIDE = (
    Configuration("64 x 64 x 16", 4, 3, {"SIDE": 64, "DEPTH": 16}),
    Configuration("64 x 64 x 16, 8 warps", 8, 3, {"SIDE": 64, "DEPTH": 16}),
)


@triton.jit
def _values_of_sub_tile(
    i: tl.constexpr, code, product, left_out, a_first, b_first,
    measures, count, ENERGIES: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """Return a function's values in a sub-tile, which pairs have one, and which coincide.

    The measures of points are loaded again for every sub-tile and function: kept for all of them,
    they would fill the registers.
    """
    tl.debug_barrier()  # one sub-tile after another: several at once spill
    a, b = a_first + tl.arange(0, SIDE), b_first + sub_tile_columns(i, SIDE)
    a_mask, a_squares, a_inverses, a_half = load_measures(a, measures, count)
    b_mask, b_squares, b_inverses, b_half = load_measures(b, measures, count)
    exists = pairs_exist(a, a_mask & (left_out == 0), b, b_mask, True)
    directed = tl.minimum(a_inverses[:, None], b_inverses[None, :]) > 0
    cosine = cosines(product, a_inverses[:, None], b_inverses[None, :])
    value, has, defined, _safe = function_values(
        *(code, exists, directed, cosine),
        *(square_of(product, a_squares[:, None], b_squares[None, :]), 2 - 2 * cosine),
        *(a_half[:, None] + b_half[None, :], ENERGIES),
    )
    return value, has, exists & (defined == 0)


@triton.jit
def _count_function(
    p, code, products, left_out, a_first, b_first,
    measures, count, edges, bins, histogram, ENERGIES: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """Count the values of one function by bin, apart from its sums: together they spilled."""
    for i in tl.static_range(len(products)):
        value, has, _ = _values_of_sub_tile(
            *(i, code, products[i], left_out, a_first, b_first),
            *(measures, count, ENERGIES, SIDE),
        )
        count_by_bin(value, has, edges + p * (bins + 1), bins, histogram + p * bins)


@triton.jit
def _visit_function(
    sums, p, code, target_value, products, left_out, a_first, b_first,
    measures, count, PARTS: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """Add one function, no energy, up over the sub-tiles of a tile, but for the rows left out."""
    like = products[0]
    pairs = tl.zeros(like.shape, tl.int32)
    coincident = tl.zeros(like.shape, tl.int32)
    total = tl.zeros(like.shape, tl.float32)
    # The square of 1e20 is infinite in float32; one sum a row, as float64 fills two registers.
    powers = tl.zeros((SIDE,), tl.float64)
    away = tl.zeros(like.shape, tl.float32)
    lowest = tl.full(like.shape, float("inf"), tl.float32)
    highest = tl.full(like.shape, float("-inf"), tl.float32)
    for i in tl.static_range(len(products)):
        value, has, missing = _values_of_sub_tile(
            *(i, code, products[i], left_out, a_first, b_first),
            *(measures, count, False, SIDE),
        )
        counted = tl.where(has, value, 0.0)
        pairs += has.to(tl.int32)
        coincident += missing.to(tl.int32)
        total += counted
        powers += tl.sum(counted.to(tl.float64) * counted.to(tl.float64), axis=1)
        away += tl.where(has, tl.abs(value - target_value), 0.0)
        lowest = tl.minimum(lowest, tl.where(has, value, float("inf")))
        highest = tl.maximum(highest, tl.where(has, value, float("-inf")))
    return add_values(sums, p, pairs, coincident, total, powers, away, lowest, highest, PARTS)


@triton.jit
def _visit_energies(
    sums, p, code, target_value, products, left_out, a_first, b_first,
    measures, count, PARTS: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """Add one function's energies up over the sub-tiles of a tile, but for the rows left out."""
    for i in tl.static_range(len(products)):
        value, has, missing = _values_of_sub_tile(
            *(i, code, products[i], left_out, a_first, b_first),
            *(measures, count, True, SIDE),
        )
        sums = add_energies(sums, p, value, has, missing, target_value, PARTS)
    return sums


@triton.jit
def _visit_row(
    sums, x, stride_n, stride_d, index, center, measures,
    count, rows_of_x, width, a, b_first, codes, target_values, functions, edges, bins, histogram,
    PARTS: tl.constexpr, ENERGIES: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """Add every function up over one row of a tile, from differences."""
    b = b_first + tl.arange(0, SIDE)
    b_rows, b_mask = load_rows(b, index, count, rows_of_x)
    _b_mask, b_squares, b_inverses, half = load_measures(b, measures, count)
    raw, unit, product = row_by_differences(
        *(x, stride_n, stride_d, index, center, measures, a, b_rows, b_mask, b_squares),
        *(width, SIDE, NEAR_DEPTH),
    )
    _a_mask, _a_square, a_inverse, a_half = load_measures(a, measures, count)
    cosine = cosines(product, a_inverse, b_inverses)
    exists = b_mask & (a < b)
    for p in range(0, functions):
        code = tl.load(codes + p)
        value, has, defined, _safe = function_values(
            *(code, exists, tl.minimum(a_inverse, b_inverses) > 0),
            *(cosine, raw, unit, a_half + half, ENERGIES),
        )
        counted = tl.where(has, value, 0.0)
        missing = exists & (defined == 0)
        with_values = add_values(
            *(sums, p, has.to(tl.int32), missing.to(tl.int32), counted),
            *(counted.to(tl.float64) * counted.to(tl.float64),),
            *(tl.where(has, tl.abs(value - tl.load(target_values + p)), 0.0),),
            *(tl.where(has, value, float("inf")), tl.where(has, value, float("-inf")), PARTS),
        )
        if ENERGIES:
            energies = add_energies(sums, p, value, has, missing, tl.load(target_values + p), PARTS)
            with_values = tl.where(code > ENERGY, energies, with_values)
        sums = with_values
        if edges is not None:
            count_by_bin(value, has, edges + p * (bins + 1), bins, histogram + p * bins)
    return sums


@triton.jit
def _visit_tile(
    sums, x, stride_n, stride_d, index, center, measures,
    count, rows_of_x, width, a_first, b_first, codes, target_values, functions, edges, bins,
    histogram, PARTS: tl.constexpr, RAW: tl.constexpr, UNIT: tl.constexpr, ENERGIES: tl.constexpr,
    AS_STORED: tl.constexpr, PRECISION: tl.constexpr, SIDE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Add every function up over a tile, whose products never leave the registers."""
    products = sub_tiles(
        pair_products(
            *(x, stride_n, stride_d, index, center, measures, count, rows_of_x, width),
            *(a_first, b_first, AS_STORED, PRECISION, SIDE, DEPTH),
        )
    )
    near = near_rows(*(products, a_first, b_first, measures, count, True, RAW, UNIT, SIDE))
    for p in range(0, functions):
        code = tl.load(codes + p)
        # Both are 0, as no code is negative, but the compiler does not know: what is loaded for one
        # function is not kept for the next, nor for counting. Kept, it spilled.
        zero, another = (code < 0).to(tl.int32), (code < -1).to(tl.int32)
        target_value = tl.load(target_values + p)
        if ENERGIES:
            if code > ENERGY:
                sums = _visit_energies(
                    *(sums, p, code, target_value, products, near, a_first + zero, b_first + zero),
                    *(measures, count, PARTS, SIDE),
                )
            else:
                sums = _visit_function(
                    *(sums, p, code, target_value, products, near, a_first + zero, b_first + zero),
                    *(measures, count, PARTS, SIDE),
                )
        else:
            sums = _visit_function(
                *(sums, p, code, target_value, products, near, a_first + zero, b_first + zero),
                *(measures, count, PARTS, SIDE),
            )
        if edges is not None:
            _count_function(
                *(p, code, products, near, a_first + another, b_first + another, measures),
                *(count, edges, bins, histogram, ENERGIES, SIDE),
            )
    if RAW or UNIT:
        i = next_row(near, -1, SIDE)
        while i < SIDE:
            sums = _visit_row(
                *(sums, x, stride_n, stride_d, index, center, measures, count),
                *(
                    rows_of_x,
                    width,
                    (a_first + i).to(tl.int64),
                    b_first,
                    codes,
                    target_values,
                    functions,
                ),
                *(edges, bins, histogram, PARTS, ENERGIES, SIDE),
            )
            i = next_row(near, i, SIDE)
    return sums


@triton.jit
def _visit_pairs(
    x, stride_n, stride_d, index, center, measures, as_stored, count, rows_of_x, width, codes,
    target_values, functions, edges, bins, histogram, partials,
    PARTS: tl.constexpr, RAW: tl.constexpr, UNIT: tl.constexpr, ENERGIES: tl.constexpr,
    AS_STORED: tl.constexpr, PRECISION: tl.constexpr, GROUP: tl.constexpr, SIDE: tl.constexpr,
    DEPTH: tl.constexpr,
):  # fmt: skip
    if as_stored is not None:  # noqa: SIM102, the first is known when compiling
        if (tl.load(as_stored) != 0) != AS_STORED:
            return  # another launch visits these pairs
    place = tl.arange(0, PARTS)
    sums = tl.where(place % 8 == 5, float("inf"), tl.where(place % 8 == 6, float("-inf"), 0.0))
    sums = sums.to(tl.float64)
    side = tl.cdiv(count, SIDE)
    group = tl.where(side > 2 * GROUP, GROUP, 1)
    blocks = tl.cdiv(side, group)
    tiles = (blocks + 1) // 2 * (blocks + 1) * group * group
    for t in range(tl.program_id(0), tiles, tl.num_programs(0)):
        i, j, valid = grouped_upper_tile(t, side, group)
        if valid:
            sums = _visit_tile(
                *(sums, x, stride_n, stride_d, index, center, measures, count, rows_of_x, width),
                *(i * SIDE, j * SIDE, codes, target_values, functions, edges, bins, histogram),
                *(PARTS, RAW, UNIT, ENERGIES, AS_STORED, PRECISION, SIDE, DEPTH),
            )
    tl.store(partials + tl.program_id(0).to(tl.int64) * PARTS + place, sums)


def _visit(
    points: PointSet,
    codes: Tensor,
    targets: Sequence[float],
    edges: Tensor | None,
    bins: int,
    histogram: Tensor,
) -> Tensor:
    """Return the sums [programs, P, 8] of each program's tiles; count the values of all."""
    device, count = points.measures.device, len(targets)
    target_values = on_device(targets, torch.float32, device)
    parts = triton.next_power_of_2(PARTS * count)
    # As many programs whatever the tiles are: those without one say so in their sums.
    programs = min(max(upper_tiles(triton.cdiv(points.rows.count, 64)), 1), PROGRAMS)
    partials = native.allocate((programs, parts), torch.float64, device)
    large = edges is None and points.rows.x.dtype == torch.bfloat16 and not points.energies
    narrow = NARROW if large and architecture(device) in (8, 9) else SMALL
    for as_stored in points.variants():
        launch(
            _visit_pairs,
            lambda t: (programs,),
            narrow if as_stored else WIDE[::-1] if points.energies else WIDE,
            *(*points.arguments(), codes, target_values, count, edges, bins, histogram, partials),
            key=("width",) if edges is None else (),  # what is timed would be counted
            PARTS=parts,
            RAW=points.raw,
            UNIT=points.unit,
            ENERGIES=points.energies,
            AS_STORED=as_stored,
            PRECISION="ieee" if as_stored else dot_precision(),
            GROUP=GROUP,
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
    device, functions = points.device, len(kinds)
    found = measure(points, variances, center, index, kinds)
    edges, bins = checked_bins(edges)
    histogram = native.allocate((functions, bins), torch.int64, device).zero_()
    sums = _visit(found, function_codes(kinds, powers, device), targets, edges, bins, histogram)
    totals = sums[:, :, :5].sum(0)
    empty = totals[:, 0] == 0
    stats = native.allocate((functions, 6), torch.float64, device)
    stats[:, :3] = totals[:, :3]
    for p in [p for p, kind in enumerate(kinds) if kind == RIESZ]:
        stats[p, 1:3] = energy_sums(sums[:, p])
    stats[:, 3] = sums[:, :, 5].amin(0).masked_fill(empty, float("nan"))
    stats[:, 4] = sums[:, :, 6].amax(0).masked_fill(empty, float("nan"))
    stats[:, 5] = totals[:, 3]
    coincident = native.allocate((functions,), torch.int64, device)
    coincident.copy_(totals[:, 4])
    return stats, histogram, coincident
