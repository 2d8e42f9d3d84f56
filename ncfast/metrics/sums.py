"""Sums of a function over pairs, as they are added up and what a report makes of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..functional.pair_stats import LOGARITHMIC
from .pair_functions import Functions, PairFunction, PairSummary, histogram_of

__all__ = ["Sums", "summary_of_all", "total_of"]


@dataclass
class Sums:
    """Hold what :func:`ncfast.functional.pair_stats` returns for one function, and add to it."""

    stats: Tensor
    histogram: Tensor
    coincident: Tensor
    rounded: int = 0

    @classmethod
    def nothing(cls, function: PairFunction, bins: int, device: torch.device) -> Sums:
        zero = -math.inf if function.kind in LOGARITHMIC else 0.0
        empty = [0, zero, zero, math.nan, math.nan, 0]
        stats = torch.tensor(empty, dtype=torch.float64, device=device)
        counts = torch.zeros(bins + 1, dtype=torch.int64, device=device)
        return cls(stats, counts[:bins], counts[bins])

    def to(self, device: torch.device | str) -> Sums:
        """Return the same on a device."""
        stats, histogram = self.stats.to(device), self.histogram.to(device)
        return Sums(stats, histogram, self.coincident.to(device), self.rounded)

    def plus(self, other: Sums, function: PairFunction) -> Sums:
        """Return the sums over the pairs of both."""
        return Sums(
            _together(self.stats, other.stats, function),
            self.histogram + other.histogram,
            self.coincident + other.coincident,
            self.rounded + other.rounded,
        )

    def less(self, other: Sums, times: int, function: PairFunction) -> Sums:
        """Return the sums with those of other pairs, which stay in the range, taken off again."""
        stats = self.stats - times * other.stats
        stats[3:5] = self.stats[3:5]
        if function.kind in LOGARITHMIC:
            share = times * torch.exp(other.stats[1:3] - self.stats[1:3])
            left = self.stats[1:3] + torch.log1p(-share)
            stats[1:3] = torch.where(torch.isfinite(self.stats[1:3]), left, -math.inf)
        return Sums(
            stats,
            self.histogram - times * other.histogram,
            self.coincident - times * other.coincident,
            self.rounded - times * other.rounded,
        )

    def add(self, values: Tensor, function: PairFunction, edges: Tensor) -> None:
        """Add values of pairs, NaN where a pair has none."""
        kept = values[~torch.isnan(values)]
        self.coincident = self.coincident + (values.numel() - kept.numel())
        if not kept.numel():
            return
        total, squares = kept.sum(), kept @ kept
        if function.kind in LOGARITHMIC:
            total, squares = kept.logsumexp(0), (2 * kept).logsumexp(0)
        count, away = kept.new_tensor(kept.numel()), (kept - function.target).abs().sum()
        found = torch.stack([count, total, squares, kept.min(), kept.max(), away])
        self.stats = _together(self.stats, found, function)
        if bins := self.histogram.numel():
            low, high = float(edges[0]), float(edges[-1])
            self.histogram = self.histogram + torch.histc(kept, bins, low, high).long()


def _together(a: Tensor, b: Tensor, function: PairFunction) -> Tensor:
    """Return the statistics [6] over the pairs of both."""
    total = a + b
    if function.kind in LOGARITHMIC:
        total[1:3] = torch.logaddexp(a[1:3], b[1:3])
    total[3], total[4] = torch.fmin(a[3], b[3]), torch.fmax(a[4], b[4])
    return total


def total_of(parts: Iterable[Sequence[Sums]], functions: Functions) -> list[Sums]:
    """Return every function's sums over the pairs of all parts, one at least, in their order."""
    first, *others = parts
    total = list(first)
    for part in others:
        total = [a.plus(b, f) for a, b, f in zip(total, part, functions, strict=True)]
    return total


def summary_of_all(function: PairFunction, found: Sums, bins: int) -> PairSummary:
    """Turn the sums over all pairs into what a report needs."""
    pairs, total, squares, _, greatest, deviation = found.stats.tolist()
    coincident = int(found.coincident)
    histogram = histogram_of(function, found.histogram, int(pairs), coincident, bins)
    rounded = found.rounded
    if not pairs:
        nan = math.nan
        return PairSummary(
            0, coincident, nan, nan, nan, estimates={}, histogram=histogram, rounded=rounded
        )
    mean = total - math.log(pairs) if function.kind in LOGARITHMIC else total / pairs
    std = math.nan
    if pairs > 1 and function.kind not in LOGARITHMIC:
        std = math.sqrt(max(squares - total * mean, 0.0) / (pairs - 1))
    share = deviation / pairs
    return PairSummary(
        int(pairs),
        coincident,
        mean,
        std,
        share,
        estimates={},
        histogram=histogram,
        greatest=greatest,
        rounded=rounded,
    )
