"""Intervals and tests: cluster bootstrap, McNemar, sign flips, headroom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .statistic import Statistic

__all__ = ["Estimate", "PairedDifference", "cluster_weights", "compare", "estimate"]

RESAMPLES = 2000
LEVEL = 0.95
# Resamples at a time: 200 x 6,392 float64 weights are 10 MB.
CHUNK = 200
SIGN_FLIPS_EXACT = 14  # clusters up to which all 2^n sign flips are counted
SIGN_FLIPS = 20_000


@dataclass(frozen=True)
class Estimate:
    """Hold a score with its interval."""

    value: float  # the score, NaN where undefined
    # low, high: 95 % percentile interval over resampled clusters; None without one
    low: float | None
    high: float | None
    standard_error: float | None  # standard deviation over resamples; None without one
    # items, clusters: their numbers
    items: int
    clusters: int
    # whether the score lies two standard errors or more from the unbiased value; None where there
    # is no such value
    headroom: bool | None


@dataclass(frozen=True)
class PairedDifference:
    """Hold the difference of two models on the same items, second less first."""

    # value, low, high: the difference and its 95 % interval over the same resampled clusters
    value: float
    low: float | None
    high: float | None
    changed: int | None  # items whose verdict changed; None without verdicts
    # two-sided: exact McNemar for verdicts of items that are clusters of their own, else sign flips
    # of clusters; None where neither applies
    p_value: float | None
    test: str  # its name


def cluster_weights(
    statistic: Statistic, resamples: int = RESAMPLES, seed: int = 0, items: bool = False
) -> Iterator[np.ndarray]:
    """Draw how often each item counts when clusters are resampled within strata [r, n], in chunks.

    Two models of one comparison share the seed. ``items`` resamples items within their clusters
    instead.
    """
    generator = np.random.default_rng(seed)
    strata = statistic.strata if len(statistic.strata) else ("",) * len(statistic.clusters)
    pairs = list(zip(strata, statistic.clusters, strict=True))
    if items:
        units = [(pair, number) for number, pair in enumerate(pairs)]
    else:
        units = [(stratum, cluster) for stratum, cluster in pairs]  # type: ignore[misc]
    order = {unit: number for number, unit in enumerate(dict.fromkeys(units))}
    of_item = np.asarray([order[unit] for unit in units], dtype=np.int64)
    groups: dict[object, list[int]] = {}
    for unit, number in order.items():
        groups.setdefault(unit[0], []).append(number)
    for start in range(0, resamples, CHUNK):
        rows = min(CHUNK, resamples - start)
        weights = np.zeros((rows, len(order)))
        for members in groups.values():
            n = len(members)
            weights[:, members] = generator.multinomial(n, np.full(n, 1 / n), size=rows)
        yield weights[:, of_item]


def _resampled(
    value: Callable[[np.ndarray], np.ndarray], statistic: Statistic, resamples: int, seed: int
) -> tuple[float | None, float | None, float | None]:
    """Return low, high and standard error of the wider of two bootstraps.

    Clusters are resampled, and items within clusters. Either alone is too narrow somewhere: ten
    target terms (StereoSet dev gender) gave bert-base-cased's SS a standard error of 1.7 where
    its 255 items give 3.1, and items alone forget that the items of a term go together.
    """
    n, clusters = len(statistic.items), _clusters(statistic)
    found = []
    for items in (False, True):
        if clusters >= 2 and (not items or n > clusters):
            drawn = cluster_weights(statistic, resamples, seed, items)
            found.append(percentile_interval(np.concatenate([value(w) for w in drawn])))
    whole = [f for f in found if f[2] is not None]
    return max(whole, key=lambda f: f[2] or 0.0) if whole else (None, None, None)


def _clusters(statistic: Statistic) -> int:
    strata = statistic.strata if len(statistic.strata) else ("",) * len(statistic.clusters)
    return len(set(zip(strata, statistic.clusters, strict=True)))


def estimate(statistic: Statistic, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Compute a score and its cluster bootstrap interval; none for fewer than two clusters."""
    n, clusters = len(statistic.items), _clusters(statistic)
    value = float(statistic.value(np.ones((1, n)))[0]) if n else float("nan")
    low = high = error = None
    if np.isfinite(value) and statistic.resampled:
        low, high, error = _resampled(statistic.value, statistic, resamples, seed)
    headroom = None
    if statistic.unbiased is not None and error is not None:
        distance = abs(value - statistic.unbiased)
        headroom = bool(distance >= 2 * error and distance > 0)
    return Estimate(value, low, high, error, n, clusters=clusters, headroom=headroom)


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


def compare(
    first: Statistic, second: Statistic, resamples: int = RESAMPLES, seed: int = 0
) -> PairedDifference:
    """Compare two models on the items that both scored, resampling the same clusters for both."""
    if list(first.items) != list(second.items):
        raise ValueError(
            f"compare: {first.key} of the two models is over different items; expected the same "
            "items in the same order"
        )
    ones = np.ones((1, len(first.items)))
    value = float(second.value(ones)[0] - first.value(ones)[0])
    low = high = None
    if first.resampled:
        low, high, _ = _resampled(
            lambda w: second.value(w) - first.value(w), first, resamples, seed
        )
    changed, p_value, test = None, None, ""
    if first.verdicts is not None and second.verdicts is not None:
        changed, p_value = _mcnemar(first.verdicts, second.verdicts)
        test = "exact McNemar"
        if _clusters(first) < len(first.items):  # McNemar's items are independent of one another
            p_value = _sign_flip(first, second.verdicts - first.verdicts, seed)
            test = "sign flips of clusters"
    elif first.effects is not None and second.effects is not None:
        p_value = _sign_flip(first, second.effects - first.effects, seed)
        test = "sign flips of clusters"
    return PairedDifference(value, low, high, changed, p_value, test=test)


def _mcnemar(first: np.ndarray, second: np.ndarray) -> tuple[int, float]:
    """Return how many verdicts changed and the exact two-sided p of McNemar's test.

    A change to or from a tie counts for the side it moves to.
    """
    from scipy.stats import binomtest

    change = np.sign(np.asarray(second, float) - np.asarray(first, float))
    up, down = int((change > 0).sum()), int((change < 0).sum())
    changed = up + down
    return changed, float(binomtest(up, changed).pvalue) if changed else 1.0


def _sign_flip(statistic: Statistic, effects: np.ndarray, seed: int) -> float:
    """Return the two-sided p of the weighted mean effect under random signs of clusters.

    A cluster counts by what it adds to the score: the mean of clusters' means is another score,
    and where one cluster is large may even have another sign.
    """
    shares = np.ones(len(effects)) if statistic.shares is None else statistic.shares
    of: dict[str, float] = {}
    for cluster, effect in zip(statistic.clusters, effects * shares, strict=True):
        of[cluster] = of.get(cluster, 0.0) + float(effect)
    sums = np.asarray(list(of.values()))
    if not np.isfinite(sums).all():
        return float("nan")
    if not sums.any():
        return 1.0
    if len(sums) <= SIGN_FLIPS_EXACT:
        return exact_sign_flip(sums)
    observed, n = abs(sums.sum()), len(sums)
    slack = 1e-12 * np.abs(sums).sum()
    generator = np.random.default_rng(seed)
    hits = 0
    for start in range(0, SIGN_FLIPS, CHUNK):
        rows = min(CHUNK, SIGN_FLIPS - start)
        signs = generator.integers(0, 2, size=(rows, n)) * 2 - 1
        hits += int((np.abs(signs @ sums) >= observed - slack).sum())
    return (hits + 1) / (SIGN_FLIPS + 1)


def exact_sign_flip(values: np.ndarray) -> float:
    """Return the two-sided p of a sum under all 2^n signs; ties count, to 1e-12 of sum |value|.

    >>> exact_sign_flip(np.array([1.0, 2.0, 3.0]))
    0.25
    """
    sums = np.zeros(1)
    for value in values:  # not scipy's permutation_test: it loops in Python over 2^n
        sums = np.concatenate([sums + value, sums - value])
    slack = 1e-12 * np.abs(values).sum()
    return float((np.abs(sums) >= abs(values.sum()) - slack).mean())
