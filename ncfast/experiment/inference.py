"""Tests and intervals over seeds, chosen before a run: sign flips, Holm, TOST, bootstrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..fairness.inference import exact_sign_flip

__all__ = [
    "Equivalence",
    "can_be_significant",
    "crossed_interval",
    "equivalence",
    "holm",
    "minimal_detectable_effect",
    "sign_flip",
    "sign_flip_floor",
]

LEVEL = 0.05  # of every test
EXACT = 20  # pairs up to which every one of 2^n signs is tried: a million


@dataclass(frozen=True)
class Equivalence:
    """Hold two one-sided t-tests of a mean paired difference against a margin."""

    mean: float  # the mean difference
    p_low: float
    p_high: float
    margin: float  # in the differences' units

    @property
    def p_value(self) -> float:
        """Return the p of equivalence: the larger of the two."""
        return max(self.p_low, self.p_high)


def _checked(name: str, differences: Sequence[float], least: int) -> np.ndarray:
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or len(values) < least:
        raise ValueError(
            f"{name}: differences has shape {values.shape}; expected at least {least} pairs"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: differences holds a value that is not finite: {values}")
    return values


def sign_flip(differences: Sequence[float]) -> float:
    r"""Return the exact two-sided p of 2 to 20 paired differences under flips of their signs.

    .. math:: p = 2^{-n} \, \#\{ s \in \{-1, 1\}^n : |\sum_i s_i d_i| \ge |\sum_i d_i| \}

    It is 1 where every difference is 0, never below 2 / 2^n. Ties count, to 1e-12 of sum |d|.

    >>> sign_flip([1, 2, 3]), sign_flip([1.0] * 8)
    (0.25, 0.0078125)
    """
    values = _checked("sign_flip", differences, 2)
    if len(values) > EXACT:
        raise ValueError(f"sign_flip: {len(values)} pairs; expected at most {EXACT}")
    return exact_sign_flip(values)


def sign_flip_floor(pairs: int) -> float:
    """Return the smallest p that a sign-flip test of n pairs can give: 2 / 2^n, at most 1.

    >>> sign_flip_floor(3), sign_flip_floor(8)
    (0.25, 0.0078125)
    """
    return min(1.0, 2.0 / 2**pairs)


def can_be_significant(pairs: int, tests: int, level: float = 0.05) -> bool:
    """Tell whether Holm's first step can reject any of so many sign-flip tests of n pairs.

    That is, whether the smallest possible p is at most level / tests.

    >>> can_be_significant(8, 6), can_be_significant(8, 7), can_be_significant(3, 1)
    (True, False, False)
    """
    return sign_flip_floor(pairs) <= level / max(tests, 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values by name, adjusted for their number by Holm's step-down rule, at most 1.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    largest, adjusted = 0.0, {}
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def equivalence(differences: Sequence[float], margin: float) -> Equivalence:
    r"""Test by two one-sided paired t-tests (TOST) that a mean lies within a margin m > 0 of 0.

    .. math:: t_{\pm} = (\bar d \pm m) / (s / \sqrt n)

    Of differences that are all equal both p-values are 0 or 1.

    >>> found = equivalence([0.5, -0.5, 0.25, -0.25], margin=1.0)
    >>> found.mean, round(found.p_value, 4)
    (0.0, 0.011)
    """
    from scipy.stats import ttest_1samp

    values = _checked("equivalence", differences, 2)
    if not 0 < margin < np.inf:
        raise ValueError(f"equivalence: margin is {margin}; expected above 0")
    mean = float(values.mean())
    if np.ptp(values) == 0:
        return Equivalence(mean, float(mean <= -margin), float(mean >= margin), margin)
    low = ttest_1samp(values, -margin, alternative="greater").pvalue
    high = ttest_1samp(values, margin, alternative="less").pvalue
    return Equivalence(mean, float(low), float(high), margin)


def minimal_detectable_effect(pairs: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the mean difference that a two-sided paired t-test of 2 pairs or more finds.

    With probability ``power`` at level ``alpha``, in standard deviations of the paired differences.

    >>> round(minimal_detectable_effect(8), 2), round(minimal_detectable_effect(3), 2)
    (1.16, 3.26)
    """
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    if pairs < 2:
        raise ValueError(f"minimal_detectable_effect: {pairs} pairs; expected at least 2")
    critical = t.ppf(1 - alpha / 2, pairs - 1)

    def missing(effect: float) -> float:
        shift = effect * pairs**0.5
        found = nct.sf(critical, pairs - 1, shift)
        other = nct.cdf(-critical, pairs - 1, shift)  # of the wrong sign; scipy has NaN far out
        return float(found + np.nan_to_num(other) - power)

    high = 1.0
    while missing(high) < 0:
        high *= 2
    return float(brentq(missing, 1e-9, high))


def crossed_interval(
    values: Sequence[float],
    drawn: np.ndarray | None = None,
    freedom: float = 1.0,
    inflation: float = 1.0,
    level: float = 0.95,
) -> tuple[float, float] | None:
    r"""Return the interval of a mean over seeds, of which and of whose items others may be drawn.

    Every seed scores the same items, so that seeds and clusters are crossed: the difference of seed
    s is :math:`d_s`, and under a draw r of clusters, one for all seeds, :math:`d_{sr}`.

    .. math:: \bar d \pm t_f \sqrt{A + B - E}, \qquad A = s^2(d_s) / S, \quad
        B = k \, s^2_r(\bar d_r), \quad
        E = (k \, \overline{s^2_r(d_{sr})} - B) / (S - 1)

    A holds what seeds differ by, B what clusters do, and both hold what seeds and clusters do
    together, E, which is taken out once; the sum is at least A and at least B. Its degrees of
    freedom are Satterthwaite's, :math:`f = (A+B-E)^2 / (A^2/(S-1) + B^2/g + E^2/((S-1) g))`, and at
    least the fewer of S-1 and g, as those of a sum are: what is subtracted takes them to 0 by its
    noise alone, though the sum never falls below A, which has S-1, and B, which has g. These are
    the quasi F of Cornfield and Tukey (1956, Annals of Mathematical Statistics 27) that Clark
    (1973, Journal of Verbal Learning and Verbal Behavior 12) has for subjects and words, with
    variances by bootstrap. Resampling seeds and clusters together counts E three times (Owen 2007,
    Annals of Applied Statistics 1), and its percentiles forget that both are few:
    ``benchmarks/results/coverage_crossed.md`` has how often either holds the true mean.

    Args:
        values: the difference of each seed, S of them.
        drawn: the difference of each seed under each draw of clusters [S, R]; None for a score
            without items, whose interval is Student's. Draws that are not finite are left out.
        freedom: g, degrees of freedom of the clusters' variance.
        inflation: k, how much larger the clusters' variance is than that of their resamples.
        level: how often it is to hold the mean.

    Returns:
        Both ends; None for fewer than two seeds or finite draws.

    >>> crossed_interval([1.0, 1.0])
    (1.0, 1.0)
    """
    from scipy.stats import t

    found = np.asarray(values, dtype=np.float64)
    seeds, center = len(found), float(found.mean()) if len(found) else float("nan")
    if seeds < 2 or not np.isfinite(found).all():
        return None
    of_seeds, of_clusters, of_both = float(found.var(ddof=1)) / seeds, 0.0, 0.0
    if drawn is not None:
        drawn = drawn[:, np.isfinite(drawn).all(0)]
        if drawn.shape[1] < 2:
            return None
        of_clusters = inflation * float(drawn.mean(0).var(ddof=1))
        each = inflation * float(drawn.var(axis=1, ddof=1).mean())
        of_both = max(0.0, (each - of_clusters) / (seeds - 1))
    variance = max(of_seeds + of_clusters - of_both, of_seeds, of_clusters)
    if variance == 0:
        return center, center
    one, other, both = (part / variance for part in (of_seeds, of_clusters, of_both))
    parts = one**2 / (seeds - 1) + other**2 / freedom + both**2 / ((seeds - 1) * freedom)
    found_freedom = max(1 / parts, min(seeds - 1.0, freedom))
    half = float(t.ppf((1 + level) / 2, found_freedom)) * variance**0.5
    return center - half, center + half
