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
share of target words, 60 %     88 / 93      92 / 95      96 / 96
share of pairs, 57 %            92 / 94      92 / 94      94 / 94
mean, normal                    90 / 95      92 / 94      95 / 95
gap of two groups' means        87 / 95      90 / 93      94 / 95
Pearson's r, 0.5                92 / 96      92 / 94      96 / 96
abs(SS - 50), 0                 0 / 93       0 / 96       0 / 95
ICAT, SS 50                     76 / 94      84 / 96      83 / 96
==============================  ===========  ===========  ============

Effect sizes are biased upwards themselves, and their resamples once more: of 1.2 over 10 words,
81 / 88. Theirs are made on a stable scale (``jackknife``).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from .clusters import CHUNK, clusters_of, has_lonely, units_of
from .intervals import LEVEL, Interval, wider
from .jackknife import student
from .statistic import Statistic, Weighted

__all__ = ["cluster_weights", "expanded", "interval", "percentile_interval", "varies"]

RESAMPLES = 2000


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
    of_item, groups = units_of(statistic, items)
    for drawn in _drawn(tuple(map(tuple, groups)), resamples, seed):
        yield drawn[:, of_item].astype(np.float64)


@functools.lru_cache(maxsize=2)  # of clusters and of items: a subset's scores share both
def _drawn(groups: tuple[tuple[int, ...], ...], resamples: int, seed: int) -> list[np.ndarray]:
    """Return how often each unit of some groups counts [r, units], in chunks of resamples.

    In few bytes: 25 MB of 6,392 contexts.
    """
    generator, sizes = np.random.default_rng(seed), [len(members) for members in groups]
    chunks = []
    for start in range(0, resamples, CHUNK):
        rows = min(CHUNK, resamples - start)
        chunks.append(np.zeros((rows, sum(sizes)), dtype=np.min_scalar_type(max(sizes, default=0))))
        for members, n in zip(groups, sizes, strict=True):
            drawn = generator.multinomial(n, np.full(n, 1 / n), size=rows)
            chunks[-1][:, list(members)] = drawn
    return chunks


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
    target words (StereoSet dev gender) gave bert-base-cased's SS a standard error of 1.7 where
    its 255 items give 3.1, and items alone forget that the items of a word go together: where
    clusters cannot be resampled there is no interval.

    Args:
        functions: of item weights [R, n], such as ``statistic.value``.
        statistic: names each item's cluster and stratum.
        resamples: R.
        seed: of the draws.

    Returns:
        An interval per function, empty where a stratum has fewer than two clusters.
    """
    n = len(statistic.items)
    found = [Interval() for _ in functions]
    if clusters_of(statistic) < 2 or has_lonely(statistic):
        return found
    for items in (False, True):
        if items and not varies(statistic, items):
            continue
        chunks = [
            [function(weights) for function in functions]
            for weights in cluster_weights(statistic, resamples, seed, items)
        ]
        drawn = [np.concatenate(each) for each in zip(*chunks, strict=True)]
        for place, (function, draws) in enumerate(zip(functions, drawn, strict=True)):
            value = float(function(np.ones((1, n)))[0])
            one = expanded(value, draws, *student(function, statistic, items))
            if not items or found[place].low is not None:
                found[place] = wider(found[place], one)
    return found


def varies(statistic: Statistic, items: bool = False) -> bool:
    """Tell whether any stratum has two clusters: else every resample is the sample."""
    return any(len(members) > 1 for members in units_of(statistic, items)[1])


def expanded(value: float, drawn: np.ndarray, freedom: float, inflation: float) -> Interval:
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
    factor = float(t.ppf(1 - tail, freedom)) / z * inflation**0.5
    outer = float(norm.cdf(-factor * z))
    low, first, last, high = np.quantile(drawn, [outer, tail, 1 - tail, 1 - outer])
    return Interval(
        float(min(low, value + factor * (first - value))),
        float(max(high, value + factor * (last - value))),
        float(drawn.std(ddof=1)) * inflation**0.5,
    )
