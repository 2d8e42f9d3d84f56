"""Intervals and tests: cluster bootstrap, McNemar, sign flips, headroom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .clusters import CHUNK, clusters_counted, clusters_of
from .intervals import LEVEL, Interval
from .jackknife import stable_interval
from .resampling import RESAMPLES, interval
from .statistic import Statistic, Weighted

__all__ = ["Estimate", "PairedDifference", "compare", "estimate", "has_headroom"]

SIGN_FLIPS_EXACT = 14  # clusters up to which all 2^n sign flips are counted
SIGN_FLIPS = 20_000


@dataclass(frozen=True)
class Estimate:
    """Hold a score with its interval."""

    value: float  # the score, NaN where undefined
    # low, high: 95 % interval over clusters (see resampling, jackknife); None without one
    low: float | None
    high: float | None
    standard_error: float | None  # standard deviation over resamples; None without one
    # items, clusters: their numbers
    items: int
    clusters: int
    # whether the score lies two standard errors or more from the unbiased value, and its interval,
    # which of few clusters is wider, leaves that value out; None where there is no such value
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


def estimate(statistic: Statistic, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Compute a score and its interval over clusters; none for fewer than two of them."""
    n, clusters = len(statistic.items), clusters_of(statistic)
    value = float(statistic.value(np.ones((1, n)))[0]) if n else float("nan")
    found = Interval()
    if np.isfinite(value) and statistic.resampled:
        if statistic.stable is not None:
            found = stable_interval(statistic)
        else:
            pieces = statistic.pieces or (statistic.value,)
            found = _picked(interval(pieces, statistic, resamples, seed), statistic)
        found = _within(found, statistic.bounds)
        found = _certain(found, value, statistic)
    low, high, error = found.low, found.high, found.standard_error
    headroom = None
    unbiased = statistic.unbiased
    if unbiased is not None and error is not None and low is not None and high is not None:
        headroom = has_headroom(abs(value - unbiased), error, low <= unbiased <= high)
    return Estimate(value, low, high, error, n, clusters=clusters, headroom=headroom)


def has_headroom(distance: float, error: float, holds: bool) -> bool:
    """Tell whether a score is far enough from unbiased for anything to be found.

    That is at least two standard errors, and not 0, and its interval, which of few clusters is
    wider, does not hold the unbiased value.

    >>> has_headroom(0.5, 0.2, False), has_headroom(0.5, 0.2, True), has_headroom(0.0, 0.0, False)
    (True, False, False)
    """
    return bool(distance >= 2 * error and distance > 0 and not holds)


def _picked(parts: Sequence[Interval], statistic: Statistic) -> Interval:
    """Return the interval of the largest, or the smallest, of several scores.

    What is picked only rises with each of them, so its ends are picked among theirs. Resamples of
    abs(SS - 50) lie above it wherever SS is near 50: their percentiles never reach 0.
    """
    if any(part.low is None for part in parts):
        return Interval()
    ends = [[getattr(part, end) for part in parts] for end in ("low", "high")]
    low, high = (float(statistic.pick(end)) for end in ends)
    return Interval(low, high, parts[0].standard_error)


def _within(found: Interval, bounds: tuple[float, float]) -> Interval:
    """Return an interval cut to the values that a score can take."""
    if found.low is None or found.high is None:
        return found
    low, high = (min(max(end, bounds[0]), bounds[1]) for end in (found.low, found.high))
    return Interval(low, high, found.standard_error)


def _certain(found: Interval, value: float, statistic: Statistic) -> Interval:
    """Return an interval that is not empty for a score at its bound, where all clusters are alike.

    Resamples of ten right answers are all right; Clopper and Pearson's interval of 10 of 10 is
    [69 %, 100 %].
    """
    least, most = statistic.bounds
    alike = found.low == found.high == value in statistic.bounds
    if not alike or not np.isfinite([least, most]).all():
        return found
    clusters = max(1, clusters_counted(statistic))
    beyond = (most - least) * (1 - ((1 - LEVEL) / 2) ** (1 / clusters))
    low, high = (value, value + beyond) if value == least else (value - beyond, value)
    return Interval(low, high, found.standard_error)


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
    found = Interval()
    if first.resampled:
        found = _within(_paired(first, second, resamples, seed), _span(first.bounds))
    changed, p_value, test = None, None, ""
    if first.verdicts is not None and second.verdicts is not None:
        changed, p_value = _mcnemar(first.verdicts, second.verdicts)
        test = "exact McNemar"
        if clusters_of(first) < len(first.items):  # McNemar's items are independent of one another
            p_value = _sign_flip(first, second.verdicts - first.verdicts, seed)
            test = "sign flips of clusters"
    elif first.effects is not None and second.effects is not None:
        p_value = _sign_flip(first, second.effects - first.effects, seed)
        test = "sign flips of clusters"
    return PairedDifference(value, found.low, found.high, changed, p_value, test=test)


def _span(bounds: tuple[float, float]) -> tuple[float, float]:
    least, most = bounds
    return least - most, most - least


def _paired(first: Statistic, second: Statistic, resamples: int, seed: int) -> Interval:
    """Return the interval of the difference, second less first, over the same resamples."""

    def less(one: Weighted, two: Weighted) -> Weighted:
        return lambda weights: two(weights) - one(weights)

    if not first.pieces:
        return interval([less(first.value, second.value)], first, resamples, seed)[0]
    # max b - max a is the largest, over b, of the smallest b - a; and no difference of the largest
    # is larger than the largest difference of two that belong together.
    each = [less(one, two) for two in second.pieces for one in first.pieces]
    found, count = interval(each, first, resamples, seed), len(first.pieces)
    inner = replace(first, pick=min if first.pick is max else max)
    rows = [found[start : start + count] for start in range(0, len(found), count)]
    picked = _picked([_picked(row, inner) for row in rows], first)
    together = [row[place] for place, row in enumerate(rows)]
    if picked.low is None or picked.high is None:
        return picked
    ends = [_picked(together, replace(first, pick=pick)) for pick in (min, max)]
    low, high = max(picked.low, ends[0].low or 0.0), min(picked.high, ends[1].high or 0.0)
    return Interval(low, high, found[0].standard_error)


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
