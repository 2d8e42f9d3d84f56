"""What is resampled, or left out, together: clusters within strata, items within clusters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .statistic import Statistic, Weighted

__all__ = [
    "CHUNK",
    "LONELY",
    "clusters_counted",
    "clusters_of",
    "has_lonely",
    "left_out",
    "units_of",
]

# Resamples at a time: 200 x 6,392 float64 weights are 10 MB.
CHUNK = 200
# Why there is no interval where :func:`has_lonely`.
LONELY = "no interval: of one cluster alone nothing says what others give"


def _strata(statistic: Statistic) -> Sequence[str]:
    return statistic.strata if len(statistic.strata) else ("",) * len(statistic.clusters)


def clusters_of(statistic: Statistic) -> int:
    """Return how many clusters there are, those of two strata apart."""
    return len(set(zip(_strata(statistic), statistic.clusters, strict=True)))


def clusters_counted(statistic: Statistic) -> int:
    """Return of how many clusters a score is: of a share of one kind, those that have some."""
    of_item, groups = units_of(statistic, items=False)
    alone = _each_of(of_item, sum(map(len, groups)))
    return sum(int(np.isfinite(statistic.value(one.astype(float))).sum()) for one in alone)


def units_of(statistic: Statistic, items: bool) -> tuple[np.ndarray, list[list[int]]]:
    """Return each item's unit [n], a cluster or the item, and the units of each group of them.

    Clusters are resampled within strata, items within their clusters.
    """
    pairs = list(zip(_strata(statistic), statistic.clusters, strict=True))
    units = [(pair, n) for n, pair in enumerate(pairs)] if items else pairs
    order = {unit: number for number, unit in enumerate(dict.fromkeys(units))}
    groups: dict[object, list[int]] = {}
    for unit, number in order.items():
        groups.setdefault(unit[0], []).append(number)
    of_item = np.asarray([order[unit] for unit in units], dtype=np.int64)
    return of_item, list(groups.values())


def has_lonely(statistic: Statistic) -> bool:
    """Tell whether a stratum has one cluster alone, so that nothing says how far others lie.

    Resampled, it is always itself: an interval would take what it adds for known.
    """
    return any(len(members) == 1 for members in units_of(statistic, items=False)[1])


def left_out(function: Weighted, of_item: np.ndarray, total: int) -> np.ndarray:
    """Return a score without each of so many units [units], one at a time.

    >>> left_out(lambda w: w @ [1.0, 2.0, 4.0], np.array([0, 0, 1]), 2).tolist()
    [4.0, 3.0]
    """
    each = _each_of(of_item, total)
    return np.concatenate([function((~one).astype(float)) for one in each])


def _each_of(of_item: np.ndarray, total: int) -> Iterator[np.ndarray]:
    """Yield which items are each unit's [r, n], in chunks that add up to the number of units."""
    for start in range(0, total, CHUNK):
        yield of_item == np.arange(start, min(start + CHUNK, total))[:, None]
