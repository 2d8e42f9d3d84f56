"""Functions of pairs of class means or head rows: every kind in one visit of each pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import functional as F
from ..geometry import unit_rows
from .drawing import Estimate, drawn_pairs, estimate_mean, estimate_std

__all__ = ["Pairs", "Plan", "Term", "TermValue"]

# Distances from 2 to 1/8 between unit vectors, in round numbers; the same for every set, so that
# histograms can be laid side by side.
LOG_DISTANCE_RANGE = (-0.7, 2.1)
COSINE_RANGE = (-1.0, 1.0)


@dataclass(frozen=True)
class Term:
    """Name one function of a pair, as :func:`ncfast.functional.pair_stats` knows it.

    Args:
        kind: ``"cdnv"``, ``"log_distance"``, ``"cosine"`` or ``"log_distance_raw"``.
        power: of the squared distance, for cdnv.
        target: what deviations are measured from.
        limits: the range of its histogram, if it has one.
    """

    kind: str
    power: int = 1
    target: float = 0.0
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class TermValue:
    """Hold what was found for one term; ``estimates`` by attribute where pairs were drawn.

    ``greatest`` is the largest value of any pair that was visited or drawn.
    """

    pairs: int
    coincident: int
    mean: float
    std: float
    deviation: float
    estimates: Mapping[str, Estimate]
    histogram: Mapping[str, Any] | None = None
    greatest: float = math.nan


@dataclass(frozen=True)
class Plan:
    """Say how pairs are gone through.

    Args:
        bins: of the histograms; 0 for none.
        drawn: how many pairs to draw; None visits all.
        seed: of the draw.
    """

    bins: int = 0
    drawn: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Pairs:
    """Name the pairs to visit: rows of a matrix, their variances, and a center.

    Args:
        points: [V, D] float.
        index: [K] int64.
        variances: [V] float64 by row, for cdnv.
        center: [D] float64, or None.
    """

    points: Tensor
    index: Tensor
    variances: Tensor
    center: Tensor | None

    def go_through(self, terms: Sequence[Term], plan: Plan) -> list[TermValue]:
        """Return the terms from all pairs, or from drawn ones."""
        if plan.drawn is None:
            return self.visit(terms, plan.bins)
        return self.draw(terms, plan.bins, plan.drawn, plan.seed)

    def visit(self, terms: Sequence[Term], bins: int) -> list[TermValue]:
        """Visit every pair once."""
        center = self.center
        if center is not None and self.points.dtype != torch.float64:
            center = center.float()  # the precision that float32 points are read in
        stats, histogram, coincident = F.pair_stats(
            self.points.detach(),
            self.variances,
            center,
            tuple(term.kind for term in terms),
            [term.power for term in terms],
            [term.target for term in terms],
            self.index,
            _edges(terms, bins).to(self.points.device) if bins else None,
        )
        found = zip(stats.tolist(), histogram, coincident.tolist(), terms, strict=True)
        return [_visited(term, row, counts, same, bins) for row, counts, same, term in found]

    def draw(self, terms: Sequence[Term], bins: int, pairs: int, seed: int) -> list[TermValue]:
        """Estimate the same from pairs drawn uniformly with replacement, in float64."""
        parts: list[list[Tensor]] = [[] for _ in terms]
        for i, j in drawn_pairs(self.index.numel(), pairs, self.points.shape[1], seed):
            one = _PairValues(self, i.to(self.index.device), j.to(self.index.device))
            for part, term in zip(parts, terms, strict=True):
                part.append(one.of(term))
        return [_drawn(t, torch.cat(part), bins) for t, part in zip(terms, parts, strict=True)]


def _visited(
    term: Term, row: Sequence[float], counts: Tensor, coincident: int, bins: int
) -> TermValue:
    """Turn the sums over all pairs into what a report needs."""
    pairs, total, squares, _, greatest, deviation = row
    histogram = histogram_of(term, counts, int(pairs), coincident, bins)
    if not pairs:
        return TermValue(0, coincident, math.nan, math.nan, math.nan, {}, histogram)
    mean = total / pairs
    std = math.nan
    if pairs > 1:
        std = math.sqrt(max(squares - total * mean, 0.0) / (pairs - 1))
    share = deviation / pairs
    return TermValue(int(pairs), coincident, mean, std, share, {}, histogram, greatest)


class _PairValues:
    """Compute terms of some pairs from differences; NaN where a pair has no value."""

    def __init__(self, pairs: Pairs, i: Tensor, j: Tensor) -> None:
        first, second = pairs.index[i], pairs.index[j]
        a, b = (pairs.points.detach()[rows].double() for rows in (first, second))
        self.square = (a - b).square().sum(1)
        self.variance = (pairs.variances[first] + pairs.variances[second]) / 2
        if pairs.center is not None:
            a, b = a - pairs.center, b - pairs.center
        a, b = unit_rows(a), unit_rows(b)
        self.cosine = (a * b).sum(1)
        directed = a.any(1) & b.any(1)
        self.unit_square = torch.where(directed, (a - b).square().sum(1), 0.0)

    def of(self, term: Term) -> Tensor:
        """Return one value per pair."""
        if term.kind == "cosine":
            return self.cosine
        square = self.unit_square if term.kind == "log_distance" else self.square
        square = torch.where(square > 0, square, math.nan)
        return self.variance / square**term.power if term.kind == "cdnv" else -square.log() / 2


def _drawn(term: Term, values: Tensor, bins: int) -> TermValue:
    drawn = values.numel()
    values = values[~torch.isnan(values)]
    same = drawn - values.numel()
    if values.numel() < 2:
        return TermValue(0, same, math.nan, math.nan, math.nan, {})
    found = {
        "mean": estimate_mean(values),
        "std": estimate_std(values),
        "deviation": estimate_mean((values - term.target).abs()),
    }
    histogram = None
    if bins and term.limits:
        counts = torch.histc(values, bins, *term.limits).long()
        histogram = histogram_of(term, counts, values.numel(), same, bins)
    mean, std, deviation = (found[part].value for part in ("mean", "std", "deviation"))
    greatest = float(values.max())
    return TermValue(values.numel(), same, mean, std, deviation, found, histogram, greatest)


def _edges(terms: Sequence[Term], bins: int) -> Tensor:
    """Return [P, bins + 1] float64; what has no histogram gets edges all the same."""
    return torch.stack([_bins(term.limits or (0.0, 1.0), bins) for term in terms])


def _bins(limits: tuple[float, float], bins: int) -> Tensor:
    return torch.linspace(limits[0], limits[1], bins + 1, dtype=torch.float64)


def histogram_of(
    term: Term, counts: Tensor, pairs: int, coincident: int, bins: int
) -> Mapping[str, Any] | None:
    """Return the histogram of a term as a report holds it."""
    if not bins or term.limits is None:
        return None
    return {
        "edges": _bins(term.limits, bins),
        "counts": counts,
        "outside": pairs - int(counts.sum()),
        "coincident": coincident,
    }
