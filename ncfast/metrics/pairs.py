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
from .pair_functions import Functions, PairSummary, Plan, bin_edges
from .sampled_pairs import Points, draw
from .shared_pairs import shared_sums
from .sums import Sums, summary_of_all

__all__ = ["Pairs"]


@dataclass(frozen=True)
class Pairs:
    """Name the pairs to visit: rows of a matrix, their variances, and a center."""

    points: Tensor  # [V, D] float
    index: Tensor  # [K] int64
    variances: Tensor  # [V] float64 by row, for cdnv
    center: Tensor | None  # [D] float64, or None
    known: Known | None = None  # how well the indexed rows are known; None for rows that are exact

    def go_through(self, functions: Functions, plan: Plan) -> list[PairSummary]:
        """Return the functions from all pairs, or from drawn ones."""
        return self.visit(functions, plan) if plan.drawn is None else self.draw(functions, plan)

    def visit(self, functions: Functions, plan: Plan) -> list[PairSummary]:
        """Visit every pair once; again those of points that have a pair within their errors."""
        sums = self.sums(functions, plan)
        return [
            summary_of_all(t, found, plan.bins) for t, found in zip(functions, sums, strict=True)
        ]

    def sums(self, functions: Functions, plan: Plan) -> list[Sums]:
        """Return what :meth:`visit` makes values of."""
        bins, ranks = plan.bins, plan.ranks

        def visit(index: Tensor) -> list[Sums]:
            return self._sums_over(functions, bins, index)

        sums, rows = shared_sums(visit, self.index, functions, ranks), self._rows(self.index)
        nearest = {
            t.kind: found.stats[4] / t.power for t, found in zip(functions, sums, strict=True)
        }
        touching = self._touching(rows, nearest, ranks)
        if self.known is not None and bool(touching.any()):
            sums = shared_sums(visit, self.index[~touching], functions, ranks)
            self._add_pairs_of(touching, functions, sums, self.known)
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

    def _sums_over(self, functions: Functions, bins: int, index: Tensor) -> list[Sums]:
        """Sum the functions over the pairs of some rows."""
        edges = _edges(functions, bins).to(self.points.device) if bins else None
        if index.numel() < 2:
            return [Sums.nothing(f, bins, self.points.device) for f in functions]
        center = self.center
        if center is not None and self.points.dtype != torch.float64:
            center = center.float()  # the precision that float32 points are read in
        found = F.pair_stats(
            self.points.detach(),
            self.variances,
            center,
            tuple(f.kind for f in functions),
            [f.power for f in functions],
            targets=[f.target for f in functions],
            index=index,
            edges=edges,
        )
        return [Sums(*one) for one in zip(*found, strict=True)]

    def _add_pairs_of(
        self, touching: Tensor, functions: Functions, sums: Sequence[Sums], known: Known
    ) -> None:
        """Add every pair that holds one of the points given, or two, by differences in float64."""
        edges = _edges(functions, sums[0].histogram.numel() or 1).to(self.points.device)
        variances = self.variances[self.index].double()
        for left, right, a, b, once in tiles_with(self._rows(self.index), known, touching):
            pairs = PairValues(a, b)
            both = (variances[left, None] + variances[right]) / 2
            for function, found, bounds in zip(functions, sums, edges, strict=True):
                values = pairs.of(function.kind, function.power, both)[once]
                found.add(values, function, bounds)
                found.rounded += int((pairs.rounded(function.kind) & once).sum())

    def draw(self, functions: Functions, plan: Plan) -> list[PairSummary]:
        """Estimate the same from pairs drawn uniformly with replacement, in float64.

        A draw misses the nearest pairs, which decide the mean of riesz: that is a ValueError.
        """
        known = self.known or Known(self.variances.new_zeros(self.index.numel()))
        points = Points(self.points.detach(), self.index, self.variances, self.center, known)
        return draw(points, functions, plan)


def _edges(functions: Functions, bins: int) -> Tensor:
    """Return [P, bins + 1] float64; what has no histogram gets edges all the same."""
    return torch.stack([bin_edges(f.limits or (0.0, 1.0), bins) for f in functions])
