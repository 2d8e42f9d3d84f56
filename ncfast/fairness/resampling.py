"""Intervals by resampled clusters, as wide as few clusters ask for.

Percentiles of resampled means are too narrow for few clusters: the resamples' variance is (G-1)/G
of the sample's, and the normal distribution stands where Student's belongs. Here both ends are
Hesterberg's expanded percentiles ("What teachers should know about the bootstrap", The American
Statistician 69, 2015), and at least as far from the score as Student's quantile scales the plain
ones, because few clusters have few resamples. How often the 95 % intervals of 400 samples held what
they estimate, in per cent, plain percentiles / these (all of it, also of 30 and 60 clusters:
``benchmarks/results/coverage.md``, by ``python -m benchmarks.coverage``):

==============================  ===========  ===========  ============
score                           10 clusters  20 clusters  262 clusters
==============================  ===========  ===========  ============
share of terms, 60 %            88 / 93      92 / 95      96 / 96
share of pairs, 57 %            92 / 94      92 / 94      94 / 94
mean, normal                    90 / 95      92 / 94      95 / 95
gap of two groups' means        87 / 95      90 / 93      94 / 95
Pearson's r, 0.5                92 / 96      92 / 94      96 / 96
effect size, 1.2                81 / 88      89 / 92      93 / 93
abs(SS - 50), 0                 0 / 93       0 / 96       0 / 95
ICAT, SS 50                     76 / 94      84 / 96      83 / 96
==============================  ===========  ===========  ============

So effect sizes of few words are still too narrow: they are biased upwards themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .statistic import Statistic, Weighted

__all__ = [
    "Interval",
    "cluster_weights",
    "clusters_counted",
    "clusters_of",
    "interval",
    "percentile_interval",
]

RESAMPLES = 2000
LEVEL = 0.95
# Resamples at a time: 200 x 6,392 float64 weights are 10 MB.
CHUNK = 200
# Units up to which each is left out once: above, Student's quantile is the normal's to 0.3 %.
LEFT_OUT = 500


@dataclass(frozen=True)
class Interval:
    """Hold the ends of an interval and the standard error; None where nothing varies to tell."""

    low: float | None = None
    high: float | None = None
    standard_error: float | None = None


def _strata(statistic: Statistic) -> Sequence[str]:
    return statistic.strata if len(statistic.strata) else ("",) * len(statistic.clusters)


def clusters_of(statistic: Statistic) -> int:
    """Return how many clusters there are, those of two strata apart."""
    return len(set(zip(_strata(statistic), statistic.clusters, strict=True)))


def clusters_counted(statistic: Statistic) -> int:
    """Return of how many clusters a score is: of a share of one kind, those that have some."""
    of_item, groups = _units(statistic, items=False)
    total = sum(map(len, groups))
    alone = (
        of_item == np.arange(start, min(start + CHUNK, total))[:, None]
        for start in range(0, total, CHUNK)
    )
    return sum(int(np.isfinite(statistic.value(one.astype(float))).sum()) for one in alone)


def _units(statistic: Statistic, items: bool) -> tuple[np.ndarray, list[list[int]]]:
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


def cluster_weights(
    statistic: Statistic, resamples: int = RESAMPLES, seed: int = 0, items: bool = False
) -> Iterator[np.ndarray]:
    """Draw how often each item counts when clusters are resampled within strata.

    Args:
        statistic: names each item's cluster and stratum.
        resamples: R.
        seed: of the draws: two models of one comparison share it.
        items: resample items within their clusters instead.

    Returns:
        Weights [r, n] in chunks that add up to R rows.
    """
    generator = np.random.default_rng(seed)
    of_item, groups = _units(statistic, items)
    for start in range(0, resamples, CHUNK):
        rows = min(CHUNK, resamples - start)
        weights = np.zeros((rows, sum(map(len, groups))))
        for members in groups:
            n = len(members)
            weights[:, members] = generator.multinomial(n, np.full(n, 1 / n), size=rows)
        yield weights[:, of_item]


def percentile_interval(
    drawn: np.ndarray, level: float = LEVEL
) -> tuple[float | None, float | None, float | None]:
    """Return low and high percentile and standard error of the finite draws; None for fewer than 2.

    >>> percentile_interval(np.array([1.0, 3.0, np.nan]), level=0.5)[:2]
    (1.5, 2.5)
    """
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < 2:
        return None, None, None
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high), float(drawn.std(ddof=1))


def interval(
    functions: Sequence[Weighted], statistic: Statistic, resamples: int, seed: int
) -> list[Interval]:
    """Return the 95 % intervals of several scores over the same resamples, each the wider of two.

    Clusters are resampled, and items within clusters. Either alone is too narrow somewhere: ten
    target terms (StereoSet dev gender) gave bert-base-cased's SS a standard error of 1.7 where
    its 255 items give 3.1, and items alone forget that the items of a term go together.

    Args:
        functions: of item weights [R, n], such as ``statistic.value``.
        statistic: names each item's cluster and stratum.
        resamples: R.
        seed: of the draws.

    Returns:
        An interval per function, empty for fewer than two clusters.
    """
    n, clusters = len(statistic.items), clusters_of(statistic)
    found = [Interval() for _ in functions]
    for items in (False, True):
        if clusters < 2 or (items and n == clusters) or not _varies(statistic, items):
            continue
        chunks = [
            [function(weights) for function in functions]
            for weights in cluster_weights(statistic, resamples, seed, items)
        ]
        drawn = [np.concatenate(each) for each in zip(*chunks, strict=True)]
        for place, (function, draws) in enumerate(zip(functions, drawn, strict=True)):
            value = float(function(np.ones((1, n)))[0])
            one = _expanded(value, draws, *_student(function, statistic, items))
            found[place] = _wider(found[place], one)
    return found


def _varies(statistic: Statistic, items: bool) -> bool:
    """Tell whether any stratum has two clusters: else every resample is the sample."""
    return any(len(members) > 1 for members in _units(statistic, items)[1])


def _wider(one: Interval, two: Interval) -> Interval:
    if two.low is None or two.high is None:
        return one
    if one.low is None or one.high is None or two.high - two.low > one.high - one.low:
        return two
    return one


def _expanded(value: float, drawn: np.ndarray, freedom: float, inflation: float) -> Interval:
    """Return the interval about a score from its resamples.

    Args:
        value: the score.
        drawn: the score of each resample; those that are undefined are left out.
        freedom: degrees of freedom of the standard error.
        inflation: how much larger the score's variance is than that of the resamples.
    """
    from scipy.stats import norm, t

    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < 2 or not np.isfinite(value):
        return Interval()
    tail = (1 - LEVEL) / 2
    z = float(norm.ppf(1 - tail))
    wider = float(t.ppf(1 - tail, freedom)) / z * inflation**0.5
    outer = float(norm.cdf(-wider * z))
    low, first, last, high = np.quantile(drawn, [outer, tail, 1 - tail, 1 - outer])
    return Interval(
        float(min(low, value + wider * (first - value))),
        float(max(high, value + wider * (last - value))),
        float(drawn.std(ddof=1)) * inflation**0.5,
    )


def _student(function: Weighted, statistic: Statistic, items: bool) -> tuple[float, float]:
    """Return the degrees of freedom and the inflation that a score's resamples need.

    Each unit is left out once. A group of n units adds the jackknife's v to the score's variance,
    of which resamples have (n-1)/n, with n-1 degrees of freedom; together these have
    (sum v)^2 / sum v^2/(n-1), by Welch and Satterthwaite.
    """
    of_item, groups = _units(statistic, items)
    total = sum(map(len, groups))
    varying = sum(len(members) for members in groups if len(members) > 1)
    free = total - len(groups)  # of units, were all groups alike
    if total > LEFT_OUT:
        return float(free), varying / free
    others = (
        of_item != np.arange(start, min(start + CHUNK, total))[:, None]
        for start in range(0, total, CHUNK)
    )
    left = np.concatenate([function(weights.astype(float)) for weights in others])
    several = [members for members in groups if len(members) > 1]
    n = np.asarray([len(members) for members in several], dtype=float)
    spread = np.asarray([((left[m] - left[m].mean()) ** 2).sum() for m in several])
    v = (n - 1) / n * spread
    if not np.isfinite(v).all() or v.sum() <= 0:
        return float(free), varying / free
    return float(v.sum() ** 2 / (v**2 / (n - 1)).sum()), float(v.sum() / (v * (n - 1) / n).sum())
