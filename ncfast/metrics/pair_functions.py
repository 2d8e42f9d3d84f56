"""Functions of a pair, how pairs are gone through, and what is found of each function."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..ranks import Ranks
from .sampling import Estimate

__all__ = [
    "COSINE_RANGE",
    "LOG_DISTANCE_RANGE",
    "Functions",
    "PairFunction",
    "PairSummary",
    "Plan",
    "bin_edges",
    "histogram_of",
]

# Distances from 2 to 1/8 between unit vectors, in round numbers; the same for every set, so that
# histograms can be laid side by side.
LOG_DISTANCE_RANGE = (-0.7, 2.1)
COSINE_RANGE = (-1.0, 1.0)


@dataclass(frozen=True)
class PairFunction:
    """Name one function of a pair, as :func:`ncfast.functional.pair_stats` knows it."""

    kind: str  # ``"cdnv"``, ``"log_distance"``, ``"cosine"``, ``"log_distance_raw"`` or ``"riesz"``
    power: int = 1  # of the squared distance, for cdnv; of the distance, for riesz
    target: float = 0.0  # what deviations are measured from
    limits: tuple[float, float] | None = None  # the range of its histogram, if it has one


Functions = Sequence[PairFunction]


@dataclass(frozen=True)
class PairSummary:
    """Hold what was found for one function; ``estimates`` by attribute where pairs were drawn.

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
    """Say how pairs are gone through."""

    bins: int = 0  # of the histograms; 0 for none
    drawn: int | None = None  # how many pairs to draw; None visits all
    seed: int = 0  # of the draw
    ranks: Ranks = field(default_factory=Ranks)  # share the work; all have the points and results


def bin_edges(limits: tuple[float, float], bins: int) -> Tensor:
    return torch.linspace(limits[0], limits[1], bins + 1, dtype=torch.float64)


def histogram_of(
    function: PairFunction, counts: Tensor, pairs: int, coincident: int, bins: int
) -> Mapping[str, Any] | None:
    """Return the histogram of a function as a report holds it."""
    if not bins or function.limits is None:
        return None
    return {
        "edges": bin_edges(function.limits, bins),
        "counts": counts,
        "outside": pairs - int(counts.sum()),
        "coincident": coincident,
    }
