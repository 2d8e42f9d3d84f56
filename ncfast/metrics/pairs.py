"""Functions of pairs of class means or head rows: every kind in one visit of each pair.

Where points are known up to an error (``Pairs.known``) and the nearest pair found is no further
apart than that explains, points that all such pairs hold one of are gone through by themselves, in
float64: pairs that may be equal have no value, and are counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import functional as F
from ..functional.pair_stats import LOGARITHMIC
from ..geometry import Rows
from ..known_points import TILE, Known, KnownRows, PairValues, entangled, known_parts, may_touch
from .drawing import Estimate, drawn_pairs, estimate_mean, estimate_std

__all__ = ["Pairs", "Plan", "Sums", "Term", "TermValue", "value_of_all", "value_of_drawn"]

# Distances from 2 to 1/8 between unit vectors, in round numbers; the same for every set, so that
# histograms can be laid side by side.
LOG_DISTANCE_RANGE = (-0.7, 2.1)
COSINE_RANGE = (-1.0, 1.0)


@dataclass(frozen=True)
class Term:
    """Name one function of a pair, as :func:`ncfast.functional.pair_stats` knows it.

    Args:
        kind: ``"cdnv"``, ``"log_distance"``, ``"cosine"``, ``"log_distance_raw"`` or ``"riesz"``.
        power: of the squared distance, for cdnv; of the distance, for riesz.
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

    ``greatest`` is the largest value of any pair that was visited or drawn; ``rounded`` are the
    coincident pairs that differ, but by no more than their rounding. Of riesz, whose values are
    logarithms, ``mean`` is the logarithm of the mean and ``std`` is NaN.
    """

    pairs: int
    coincident: int
    mean: float
    std: float
    deviation: float
    estimates: Mapping[str, Estimate]
    histogram: Mapping[str, Any] | None = None
    greatest: float = math.nan
    rounded: int = 0


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
        known: how well the indexed rows are known; None for rows that are exact.
    """

    points: Tensor
    index: Tensor
    variances: Tensor
    center: Tensor | None
    known: Known | None = None

    def go_through(self, terms: Sequence[Term], plan: Plan) -> list[TermValue]:
        """Return the terms from all pairs, or from drawn ones."""
        if plan.drawn is None:
            return self.visit(terms, plan.bins)
        return self.draw(terms, plan.bins, plan.drawn, plan.seed)

    def visit(self, terms: Sequence[Term], bins: int) -> list[TermValue]:
        """Visit every pair once; again those of points that have a pair within their errors."""
        sums = self.sums(terms, bins)
        return [value_of_all(term, found, bins) for term, found in zip(terms, sums, strict=True)]

    def sums(self, terms: Sequence[Term], bins: int) -> list[Sums]:
        """Return what :meth:`visit` makes values of."""
        sums, rows = self._sums_over(terms, bins, self.index), self._rows(self.index)
        nearest = {t.kind: found.stats[4] / t.power for t, found in zip(terms, sums, strict=True)}
        if self.known is not None and rows.count > 1 and may_touch(rows, self.known, nearest):
            touching = entangled(rows, self.known)
            if bool(touching.any()):
                sums = self._sums_over(terms, bins, self.index[~touching])
                self._add_pairs_of(touching, terms, sums, self.known)
        return sums

    def _rows(self, index: Tensor) -> Rows:
        return Rows(self.points, index, self.center)

    def _sums_over(self, terms: Sequence[Term], bins: int, index: Tensor) -> list[Sums]:
        """Sum the terms over the pairs of some rows."""
        edges = _edges(terms, bins).to(self.points.device) if bins else None
        if index.numel() < 2:
            return [Sums.nothing(term, bins, self.points.device) for term in terms]
        center = self.center
        if center is not None and self.points.dtype != torch.float64:
            center = center.float()  # the precision that float32 points are read in
        found = F.pair_stats(
            self.points.detach(),
            self.variances,
            center,
            tuple(term.kind for term in terms),
            [term.power for term in terms],
            targets=[term.target for term in terms],
            index=index,
            edges=edges,
        )
        return [Sums(*one) for one in zip(*found, strict=True)]

    def _add_pairs_of(
        self, touching: Tensor, terms: Sequence[Term], sums: Sequence[Sums], known: Known
    ) -> None:
        """Add every pair that holds one of the points given, or two, by differences in float64."""
        edges = _edges(terms, sums[0].histogram.numel() or 1).to(self.points.device)
        places = torch.arange(self.index.numel(), device=self.index.device)
        mine, variances = places[touching], self.variances[self.index].double()
        few = Known(known.reach[touching], known.center)
        for left, a in zip(
            mine.split(TILE), known_parts(self._rows(self.index[mine]), few), strict=True
        ):
            for right, b in zip(
                places.split(TILE), known_parts(self._rows(self.index), known), strict=True
            ):
                # Of two such points the pair is taken at the first.
                once = ~touching[right] | (left[:, None] < right)
                pairs = PairValues(a, b)
                both = (variances[left, None] + variances[right]) / 2
                for term, found, bounds in zip(terms, sums, edges, strict=True):
                    values = pairs.of(term.kind, term.power, both)[once]
                    found.add(values, term, bounds)
                    found.rounded += int((pairs.rounded(term.kind) & once).sum())

    def draw(self, terms: Sequence[Term], bins: int, pairs: int, seed: int) -> list[TermValue]:
        """Estimate the same from pairs drawn uniformly with replacement, in float64.

        Raises:
            ValueError: Of riesz, whose mean the few nearest pairs decide: a draw misses them.
        """
        if any(term.kind in LOGARITHMIC for term in terms):
            raise ValueError("riesz cannot be estimated from drawn pairs; expected all pairs")
        parts: list[list[Tensor]] = [[] for _ in terms]
        rounded = [0] * len(terms)
        for i, j in drawn_pairs(self.index.numel(), pairs, self.points.shape[1], seed):
            i, j = i.to(self.index.device), j.to(self.index.device)
            found = self._pair_values(i, j)
            both = (self.variances[self.index[i]] + self.variances[self.index[j]]) / 2
            for place, term in enumerate(terms):
                parts[place].append(found.of(term.kind, term.power, both))
                rounded[place] += int(found.rounded(term.kind).sum())
        return [
            value_of_drawn(term, torch.cat(part), bins, less)
            for term, part, less in zip(terms, parts, rounded, strict=True)
        ]

    def _pair_values(self, i: Tensor, j: Tensor) -> PairValues:
        """Return what pairs (i, j) of positions are."""
        points = self.points.detach()
        known = self.known or Known(self.variances.new_zeros(self.index.numel()))
        a, b = (points[self.index[side]].double() for side in (i, j))
        square = (a - b).square().sum(1)
        if self.center is not None:
            a, b = a - self.center, b - self.center
        left = KnownRows(a, known.reach[i], known.center)
        right = KnownRows(b, known.reach[j], known.center)
        return PairValues(left, right, square)


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


def value_of_drawn(term: Term, values: Tensor, bins: int, rounded: int) -> TermValue:
    drawn = values.numel()
    values = values[~torch.isnan(values)]
    same = drawn - values.numel()
    if values.numel() < 2:
        nan = math.nan
        return TermValue(0, same, nan, nan, nan, estimates={}, rounded=rounded)
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
    kept = values.numel()
    return TermValue(
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
