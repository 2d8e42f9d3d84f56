"""Functions of pairs of head rows that lie on several ranks: tiles of rows go round, once.

In each round every rank shows the next tile of its rows to all others, so that no rank ever holds
more of the head than its own rows and one tile of each. Pairs of own rows are visited as on one
process. A pair of rows of two ranks is formed by one of them, in float64: ranks stand in a ring,
and each takes the pairs of its rows with those of the next (R - 1) / 2 ranks. Two ranks opposite
each other halve their pairs: one takes those with every second tile of the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, distributed

from ..known_points import TILE, Known, KnownRows, PairValues
from ..shards import all_gather, padded
from .pair_functions import Functions, PairSummary, Plan
from .pairs import Pairs
from .sampled_pairs import summary_of_drawn
from .sampling import drawn_pairs
from .split_head import SplitHead
from .sums import Sums, summary_of_all, total_of

__all__ = ["SplitPairs"]

VALUES = 1 << 18  # of float64 in one side of the drawn pairs that are formed at a time
BYTES = 1 << 25  # of float64 rows that are shown at a time, of all ranks together
ROWS, PAIRS = "rows of the head", "pairs of head rows"


@dataclass(frozen=True)
class SplitPairs:
    """Name the pairs of the measured classes' head rows, as :class:`.pairs.Pairs` on one rank."""

    split: SplitHead  # this rank's rows
    variances: Tensor  # [K] float64 of all measured classes, for cdnv
    reach: Tensor  # [K] float64, how far the row of each may lie from the exact one

    def go_through(self, functions: Functions, plan: Plan) -> list[PairSummary]:
        """Return the functions from all pairs, or from drawn ones; the same on every rank."""
        if plan.drawn is None:
            return self._visit(functions)
        return self._draw(functions, plan.drawn, plan.seed)

    def _visit(self, functions: Functions) -> list[PairSummary]:
        error: Exception | None = None
        sums: list[Sums] = []
        try:
            sums = self._own_sums(functions)
        except Exception as raised:  # the others wait for this rank's tiles
            error = raised
        for visit in self._rounds():
            try:
                if error is None:
                    self._add_pairs_with(visit, functions, sums)
            except Exception as raised:
                error = raised
        self.split.met.share(error)
        together = self._all(functions, sums)
        return [summary_of_all(t, found, 0) for t, found in zip(functions, together, strict=True)]

    def _own_sums(self, functions: Functions) -> list[Sums]:
        """Sum over the pairs of this rank's rows."""
        rows = self.split.rows
        variances = self.variances.new_zeros(rows.points.shape[0])
        variances[rows.index] = self.variances[self.split.places]
        known = Known(self.reach[self.split.places])
        return Pairs(rows.points, rows.index, variances, None, known).sums(functions, Plan())

    def _rounds(self) -> Iterator[_Visit]:
        """Show this rank's rows to the others, and yield theirs, a tile of each at a time."""
        met, rows, places = self.split.met, self.split.rows, self.split.places
        own = torch.tensor([[distributed.get_rank(), rows.count]], device=met.device)
        ranks, counts = all_gather(met.op, own, met.groups, "numbers of rows").T.tolist()
        size, longest = len(ranks), max(counts)
        height = max(1, min(TILE, BYTES // (8 * size * rows.width)))
        for number, begin in enumerate(range(0, longest, height)):
            here = slice(begin, begin + height)
            shown = min(height, longest - begin)
            tile = padded(rows.points.detach()[rows.index[here]], shown)
            marks = padded(places[here] + 1, shown) - 1  # -1 where there is no row
            tile = all_gather(met.op, tile, met.groups, ROWS)
            marks = all_gather(met.op, marks, met.groups, ROWS)
            of_ranks = tile.view(size, shown, rows.width), marks.view(size, shown)
            yield _Visit(number, height, ranks.index(distributed.get_rank()), *of_ranks)

    def _add_pairs_with(self, visit: _Visit, functions: Functions, sums: Sequence[Sums]) -> None:
        """Add the pairs that are this rank's to form, of its rows with those shown."""
        count, size, me = self.split.rows.count, len(visit.places), visit.own
        everything = torch.arange(count, device=visit.places.device)
        ring = [(me + step) % size for step in range(1, (size + 1) // 2)]
        if size % 2 == 0:
            across = (me + size // 2) % size
            if me > across:
                every_second = everything[(everything // visit.height) % 2 == 1]
                self._add(every_second, *visit.rows_of([across]), functions, sums)
            elif visit.number % 2 == 0:
                ring.append(across)
        self._add(everything, *visit.rows_of(ring), functions, sums)

    def _add(
        self, own: Tensor, rows: Tensor, places: Tensor, functions: Functions, sums: Sequence[Sums]
    ) -> None:
        """Add the pairs of some of this rank's rows with others, in float64."""
        edges = torch.tensor([0.0, 1.0], dtype=torch.float64, device=rows.device)  # of no bins
        for mine in own.split(TILE):
            part, here = next(self.split.rows.some(mine).parts(TILE)), self.split.places[mine]
            a, of_a = self._known(part, here), self.variances[here]
            for other, there in zip(rows.split(TILE), places.split(TILE), strict=True):
                pairs = PairValues(a, self._known(other, there))
                both = (of_a[:, None] + self.variances[there]) / 2
                for function, found in zip(functions, sums, strict=True):
                    found.add(
                        pairs.of(function.kind, function.power, both).flatten(), function, edges
                    )
                    found.rounded += int(pairs.rounded(function.kind).sum())

    def _known(self, rows: Tensor, places: Tensor) -> KnownRows:
        return KnownRows(rows.double(), self.reach[places], 0.0)

    def _all(self, functions: Functions, sums: Sequence[Sums]) -> list[Sums]:
        """Return the sums of all ranks together, added in their order on each."""
        met = self.split.met
        own = torch.stack(
            [
                torch.cat([s.stats, s.stats.new_tensor([float(s.coincident), s.rounded])])
                for s in sums
            ]
        )
        table = all_gather(met.op, own[None], met.groups, f"sums over {PAIRS}")
        of_ranks = (
            [
                replace(s, stats=row[:6], coincident=row[6].long(), rounded=int(row[7]))
                for s, row in zip(sums, of_rank, strict=True)
            ]
            for of_rank in table
        )
        return total_of(of_ranks, functions)

    def _draw(self, functions: Functions, pairs: int, seed: int) -> list[PairSummary]:
        """Estimate the same from the pairs that one process draws.

        A pair is formed by the rank of its first row, when the second is shown.
        """
        count, width = len(self.variances), self.split.rows.width
        device, step = self.variances.device, max(64, VALUES // width)
        i, j = (side.to(device) for side in drawn_pairs(count, pairs, seed))
        values = self.variances.new_zeros(len(i), len(functions))
        rounded = self.variances.new_zeros(len(functions))
        own = torch.full((count,), -1, dtype=torch.int64, device=device)
        own[self.split.places] = torch.arange(self.split.rows.count, device=device)
        error: Exception | None = None
        for visit in self._rounds():
            rows, places = visit.rows_of(range(len(visit.places)))
            shown = torch.full_like(own, -1)
            shown[places] = torch.arange(len(places), device=device)
            mine = ((own[i] >= 0) & (shown[j] >= 0)).nonzero()[:, 0]
            try:
                for some in mine.split(step):
                    left, right = i[some], j[some]
                    found = self._values(left, own[left], rows[shown[right]], right)
                    both = (self.variances[left] + self.variances[right]) / 2
                    rounded += torch.stack([found.rounded(f.kind).sum() for f in functions])
                    of_functions = [found.of(f.kind, f.power, both) for f in functions]
                    values[some] = torch.stack(of_functions, 1)
            except Exception as raised:
                error = error or raised
        self.split.met.share(error)
        values, less = self.split.add(values), self.split.add(rounded).long().tolist()
        return [summary_of_drawn(f, values[:, p], 0, less[p]) for p, f in enumerate(functions)]

    def _values(self, left: Tensor, own: Tensor, others: Tensor, right: Tensor) -> PairValues:
        """Return what the pairs of own rows, of classes ``left``, with as many others are."""
        a = self.split.rows.points.detach()[self.split.rows.index[own]].double()
        b = others.double()
        square = (a - b).square().sum(1)
        return PairValues(self._known(a, left), self._known(b, right), square)


@dataclass(frozen=True)
class _Visit:
    """Hold a tile of the rows of each of R ranks."""

    number: int  # of the tile
    height: int  # rows of a full one
    own: int  # which of the ranks is this one
    rows: Tensor  # [R, T, D]
    places: Tensor  # [R, T] int64, which of the measured classes they are, or -1

    def rows_of(self, ranks: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the rows [n, D] of some of the ranks, and which classes they are [n]."""
        chosen = torch.as_tensor(list(ranks), dtype=torch.int64, device=self.places.device)
        places = self.places[chosen]
        return self.rows[chosen][places >= 0], places[places >= 0]
