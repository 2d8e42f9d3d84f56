"""Functions of a pair, estimated from pairs drawn at random, each in float64 by differences.

The draws are sorted by tiles of rows, so that rows of a mapped file are read a tile at a time, in
the order of the disk. Values go back to the places of their draws: the order of visit changes no
estimate.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import mapped
from ..functional.pair_stats import LOGARITHMIC
from ..known_points import Known, KnownRows, PairValues
from ..ranks import Ranks
from .pair_functions import Functions, PairFunction, PairSummary, Plan, histogram_of
from .sampling import drawn_pairs, estimate_mean, estimate_std, tiled

__all__ = ["Points", "draw", "summary_of_drawn"]

_VALUES = 1 << 17  # float64 values of one side of the pairs at a time: 1 MiB stays in a cache
_TILE_BYTES = 256 << 20  # of rows that are read together; two tiles are in use
_SAID_BYTES = 64 << 20  # to read from a file before it is worth a word

_log = logging.getLogger("ncfast")
_Found = tuple[Tensor, list[int]]
_Share = tuple[Tensor, Tensor, list[int]]


@dataclass(frozen=True)
class Points:
    """Name the rows that pairs are drawn of."""

    points: Tensor  # [V, D] float
    index: Tensor  # [K] int64, the rows
    variances: Tensor  # [V] float64 by row, for cdnv
    center: Tensor | None  # [D] float64, or None
    known: Known  # how well the indexed rows are known

    def values(self, functions: Functions, i: Tensor, j: Tensor) -> _Found:
        """Return functions [P, n] of pairs of positions, and how many of each rounding hides."""
        i, j = i.to(self.index.device), j.to(self.index.device)
        a, b = (self.points[self.index[side]].double() for side in (i, j))
        square = (a - b).square_().sum(1)
        if self.center is not None:
            a, b = a - self.center, b - self.center
        left = KnownRows(a, self.known.reach[i], self.known.center)
        right = KnownRows(b, self.known.reach[j], self.known.center)
        pairs = PairValues(left, right, square)
        both = (self.variances[self.index[i]] + self.variances[self.index[j]]) / 2
        values = [pairs.of(f.kind, f.power, both) for f in functions]
        return torch.stack(values), [int(pairs.rounded(f.kind).sum()) for f in functions]

    def groups(self, a: Tensor, b: Tensor, ranks: Ranks) -> Iterator[Tensor]:
        """Yield places of this rank's pairs of rows, which follow one another in order of tiles.

        Rows of a file are asked for tile by tile.
        """
        reading = mapped.reading_of(self.points)
        if reading.bytes > _SAID_BYTES:
            _log.info("drawn pairs: %s", reading)
        row_bytes = max(1, self.points.shape[1] * self.points.itemsize)
        pairs, seen = a.numel(), 0
        begin, end = (pairs * rank // ranks.size for rank in (ranks.rank, ranks.rank + 1))
        for whole in tiled(a, b, max(1, _TILE_BYTES // row_bytes)):
            group = whole[max(0, begin - seen) : max(0, end - seen)]
            seen += whole.numel()
            if not group.numel():
                continue
            if reading.bytes:
                mapped.read_ahead(self.points, torch.unique(torch.cat([a[group], b[group]])))
            yield group


def draw(points: Points, functions: Functions, plan: Plan) -> list[PairSummary]:
    """Estimate functions from pairs drawn uniformly with replacement.

    A draw misses the nearest pairs, which decide the mean of riesz: that is a ValueError.
    """
    if any(f.kind in LOGARITHMIC for f in functions):
        raise ValueError("riesz cannot be estimated from drawn pairs; expected all pairs")
    assert plan.drawn is not None
    rows = points.index.cpu()
    i, j = drawn_pairs(rows.numel(), plan.drawn, plan.seed)
    device = points.index.device
    values = torch.empty(len(functions), plan.drawn, dtype=torch.float64, device=device)
    rounded = [0] * len(functions)
    own = _of_this_rank(points, functions, (i, j), points.groups(rows[i], rows[j], plan.ranks))
    for places, part, less in plan.ranks.gather_or_raise(own):
        values[:, places] = part.to(device)
        rounded = [a + b for a, b in zip(rounded, less, strict=True)]
    return [
        summary_of_drawn(f, part, plan.bins, less)
        for f, part, less in zip(functions, values, rounded, strict=True)
    ]


def _of_this_rank(
    points: Points, functions: Functions, pairs: tuple[Tensor, Tensor], groups: Iterable[Tensor]
) -> _Share:
    """Return places of drawn pairs [n], their values [T, n], and how many of each are hidden.

    They have memory of their own, on the CPU: a view is sent to other ranks with all it is a view
    of (8 MB for each of 2,200 chunks of a million draws), and a GPU's values with their device.
    """
    size = max(64, _VALUES // max(1, points.points.shape[1]))
    i, j = pairs
    places = [torch.empty(0, dtype=torch.int64)]
    values = [torch.empty(len(functions), 0, dtype=torch.float64)]
    rounded = [0] * len(functions)
    with _Workers(points.points) as workers:
        for group in groups:
            chunks = group.split(size)
            found = workers.each(lambda some: points.values(functions, i[some], j[some]), chunks)
            for some, (part, less) in zip(chunks, found, strict=True):
                places.append(some)
                values.append(part.cpu())
                rounded = [a + b for a, b in zip(rounded, less, strict=True)]
    return torch.cat(places), torch.cat(values, 1), rounded


class _Workers:
    """Threads that compute chunks of their own, where those are too small to be shared.

    torch divides an operation on 1 MiB among its threads and waits for all of them: two threads
    took four times the CPU time of one, on cores with other work.
    """

    def __init__(self, points: Tensor) -> None:
        self._threads = torch.get_num_threads() if points.device.type == "cpu" else 1
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> _Workers:
        if self._threads > 1:
            self._pool = ThreadPoolExecutor(self._threads, initializer=_alone)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            torch.set_num_threads(self._threads)  # what threads that are made later begin with

    def each(self, work: Callable[[Tensor], _Found], chunks: Sequence[Tensor]) -> Iterator[_Found]:
        """Return the work on every chunk, in their order."""
        return (map if self._pool is None else self._pool.map)(work, chunks)


def _alone() -> None:
    torch.set_num_threads(1)  # of this thread


def summary_of_drawn(
    function: PairFunction, values: Tensor, bins: int, rounded: int
) -> PairSummary:
    """Turn values of drawn pairs, NaN where a pair has none, into what a report needs."""
    drawn = values.numel()
    values = values[~torch.isnan(values)]
    same = drawn - values.numel()
    if values.numel() < 2:
        nan = math.nan
        return PairSummary(0, same, nan, nan, nan, estimates={}, rounded=rounded)
    found = {
        "mean": estimate_mean(values),
        "std": estimate_std(values),
        "deviation": estimate_mean((values - function.target).abs()),
    }
    histogram = None
    if bins and function.limits:
        counts = torch.histc(values, bins, *function.limits).long()
        histogram = histogram_of(function, counts, values.numel(), same, bins)
    mean, std, deviation = (found[part].value for part in ("mean", "std", "deviation"))
    greatest = float(values.max())
    kept = values.numel()
    return PairSummary(
        kept,
        same,
        mean,
        std,
        deviation,
        estimates=found,
        histogram=histogram,
        greatest=greatest,
        rounded=rounded,
    )
