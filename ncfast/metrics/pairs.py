"""Functions of pairs of class means or head rows: every kind in one visit of each pair.

Where points are known up to an error (``Pairs.known``) and the nearest pair found is no further
apart than that explains, points that all such pairs hold one of are gone through by themselves, in
float64: pairs that may be equal have no value, and are counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import functional as F
from ..geometry import Rows
from ..known_points import Known, PairValues, may_touch, tiles_with
from ..near_points import touching_points
from ..ranks import Ranks
from .drawn import Points, draw
from .shared_pairs import shared_sums
from .sums import Sums, value_of_all
from .terms import Plan, Term, TermValue, bin_edges

__all__ = ["Pairs"]


@dataclass(frozen=True)
class Pairs:
    """Name the pairs to visit: rows of a matrix, their variances, and a center."""

    points: Tensor  # [V, D] float
    index: Tensor  # [K] int64
    variances: Tensor  # [V] float64 by row, for cdnv
    center: Tensor | None  # [D] float64, or None
    known: Known | None = None  # how well the indexed rows are known; None for rows that are exact

    def go_through(self, terms: Sequence[Term], plan: Plan) -> list[TermValue]:
        """Return the terms from all pairs, or from drawn ones."""
        return self.visit(terms, plan) if plan.drawn is None else self.draw(terms, plan)

    def visit(self, terms: Sequence[Term], plan: Plan) -> list[TermValue]:
        """Visit every pair once; again those of points that have a pair within their errors."""
        sums = self.sums(terms, plan)
        return [value_of_all(t, found, plan.bins) for t, found in zip(terms, sums, strict=True)]

    def sums(self, terms: Sequence[Term], plan: Plan) -> list[Sums]:
        """Return what :meth:`visit` makes values of."""
        bins, ranks = plan.bins, plan.ranks

        def visit(index: Tensor) -> list[Sums]:
            return self._sums_over(terms, bins, index)

        sums, rows = shared_sums(visit, self.index, terms, ranks), self._rows(self.index)
        nearest = {t.kind: found.stats[4] / t.power for t, found in zip(terms, sums, strict=True)}
        touching = self._touching(rows, nearest, ranks)
        if self.known is not None and bool(touching.any()):
            sums = shared_sums(visit, self.index[~touching], terms, ranks)
            self._add_pairs_of(touching, terms, sums, self.known)
        return sums

    def _touching(self, rows: Rows, nearest: Mapping[str, Tensor], ranks: Ranks) -> Tensor:
        """Return which points touch another, as the first rank finds: whether sums are exchanged
        again depends on it, and products of other ranks may round otherwise.
        """
        own = torch.zeros(rows.count, dtype=torch.bool)
        if self.known is not None and rows.count > 1 and may_touch(rows, self.known, nearest):
            own = touching_points(rows, self.known, nearest).cpu()
        return ranks.gather_or_raise(own)[0].to(self.index.device)

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
        variances = self.variances[self.index].double()
        for left, right, a, b, once in tiles_with(self._rows(self.index), known, touching):
            pairs = PairValues(a, b)
            both = (variances[left, None] + variances[right]) / 2
            for term, found, bounds in zip(terms, sums, edges, strict=True):
                values = pairs.of(term.kind, term.power, both)[once]
                found.add(values, term, bounds)
                found.rounded += int((pairs.rounded(term.kind) & once).sum())

    def draw(self, terms: Sequence[Term], plan: Plan) -> list[TermValue]:
        """Estimate the same from pairs drawn uniformly with replacement, in float64.

        A draw misses the nearest pairs, which decide the mean of riesz: that is a ValueError.
        """
        known = self.known or Known(self.variances.new_zeros(self.index.numel()))
        points = Points(self.points.detach(), self.index, self.variances, self.center, known)
        return draw(points, terms, plan)


def _edges(terms: Sequence[Term], bins: int) -> Tensor:
    """Return [P, bins + 1] float64; what has no histogram gets edges all the same."""
    return torch.stack([bin_edges(term.limits or (0.0, 1.0), bins) for term in terms])
