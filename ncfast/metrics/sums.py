"""Sums of a function over pairs, as they are added up and what a report makes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..functional.pair_stats import LOGARITHMIC
from .terms import Term, TermValue, histogram_of

__all__ = ["Sums", "value_of_all"]


@dataclass
class Sums:
    """Hold what :func:`ncfast.functional.pair_stats` returns for one term, and add to it."""

    stats: Tensor
    histogram: Tensor
    coincident: Tensor
    rounded: int = 0

    @classmethod
    def nothing(cls, term: Term, bins: int, device: torch.device) -> Sums:
        zero = -math.inf if term.kind in LOGARITHMIC else 0.0
        empty = [0, zero, zero, math.nan, math.nan, 0]
        stats = torch.tensor(empty, dtype=torch.float64, device=device)
        counts = torch.zeros(bins + 1, dtype=torch.int64, device=device)
        return cls(stats, counts[:bins], counts[bins])

    def to(self, device: torch.device | str) -> Sums:
        """Return the same on a device."""
        stats, histogram = self.stats.to(device), self.histogram.to(device)
        return Sums(stats, histogram, self.coincident.to(device), self.rounded)

    def plus(self, other: Sums, term: Term) -> Sums:
        """Return the sums over the pairs of both."""
        stats = self.stats + other.stats
        if term.kind in LOGARITHMIC:
            stats[1:3] = torch.logaddexp(self.stats[1:3], other.stats[1:3])
        stats[3] = torch.fmin(self.stats[3], other.stats[3])
        stats[4] = torch.fmax(self.stats[4], other.stats[4])
        return Sums(
            stats,
            self.histogram + other.histogram,
            self.coincident + other.coincident,
            self.rounded + other.rounded,
        )

    def less(self, other: Sums, times: int, term: Term) -> Sums:
        """Return the sums with those of other pairs, which stay in the range, taken off again."""
        stats = self.stats - times * other.stats
        stats[3:5] = self.stats[3:5]
        if term.kind in LOGARITHMIC:
            share = times * torch.exp(other.stats[1:3] - self.stats[1:3])
            left = self.stats[1:3] + torch.log1p(-share)
            stats[1:3] = torch.where(torch.isfinite(self.stats[1:3]), left, -math.inf)
        return Sums(
            stats,
            self.histogram - times * other.histogram,
            self.coincident - times * other.coincident,
            self.rounded - times * other.rounded,
        )

    def add(self, values: Tensor, term: Term, edges: Tensor) -> None:
        """Add values of pairs, NaN where a pair has none."""
        kept = values[~torch.isnan(values)]
        self.coincident = self.coincident + (values.numel() - kept.numel())
        if not kept.numel():
            return
        zero, count = kept.new_zeros(()), kept.new_tensor(kept.numel())
        away = (kept - term.target).abs().sum()
        total = self.stats + torch.stack([count, kept.sum(), kept @ kept, zero, zero, away])
        if term.kind in LOGARITHMIC:
            total[1] = torch.logaddexp(self.stats[1], kept.logsumexp(0))
            total[2] = torch.logaddexp(self.stats[2], (2 * kept).logsumexp(0))
        total[3] = torch.fmin(self.stats[3], kept.min())
        total[4] = torch.fmax(self.stats[4], kept.max())
        self.stats = total
        if bins := self.histogram.numel():
            low, high = float(edges[0]), float(edges[-1])
            self.histogram = self.histogram + torch.histc(kept, bins, low, high).long()


def value_of_all(term: Term, found: Sums, bins: int) -> TermValue:
    """Turn the sums over all pairs into what a report needs."""
    pairs, total, squares, _, greatest, deviation = found.stats.tolist()
    coincident = int(found.coincident)
    histogram = histogram_of(term, found.histogram, int(pairs), coincident, bins)
    rounded = found.rounded
    if not pairs:
        nan = math.nan
        return TermValue(
            0, coincident, nan, nan, nan, estimates={}, histogram=histogram, rounded=rounded
        )
    mean = total - math.log(pairs) if term.kind in LOGARITHMIC else total / pairs
    std = math.nan
    if pairs > 1 and term.kind not in LOGARITHMIC:
        std = math.sqrt(max(squares - total * mean, 0.0) / (pairs - 1))
    share = deviation / pairs
    return TermValue(
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
