"""Functions of pairs of class means or head rows: every kind in one visit of each pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import functional as F

__all__ = ["Pairs", "Term", "TermValue"]

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
    """Hold what was found for one term; standard errors where pairs were drawn."""

    pairs: int
    coincident: int
    mean: float
    std: float
    deviation: float
    errors: Mapping[str, float]
    histogram: Mapping[str, Any] | None = None


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
            _edges(terms, bins) if bins else None,
        )
        found = []
        for row, counts, same, term in zip(
            stats.tolist(), histogram, coincident.tolist(), terms, strict=True
        ):
            count, total, squares, deviation = row[0], row[1], row[2], row[5]
            mean = total / count if count else math.nan
            spread = max(squares - total * mean, 0.0) if count > 1 else math.nan
            found.append(
                TermValue(
                    int(count),
                    same,
                    mean,
                    math.sqrt(spread / (count - 1)) if count > 1 else math.nan,
                    deviation / count if count else math.nan,
                    {},
                    histogram_of(term, counts, int(count), same, bins),
                )
            )
        return found


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
