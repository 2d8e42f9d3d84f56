r"""Intervals by leaving units out: what resamples need of it, and Student's on a stable scale.

A score whose error depends on where it lies, as an effect size's does, has no good interval of few
resampled clusters: those of effect sizes over 10 words held 1.2 in 88 % of samples, where these
held it in 96 % (in 90 to 94 % where associations are as skewed as an exponential). Here the score
is put on a scale on which its error hardly depends on it, its jackknife's bias is taken off, and
Student's interval of its jackknife's standard error is put back (Tukey 1958, "Bias and confidence
in not-quite large samples"; Miller 1974, "The jackknife - a review", Biometrika 61, who leaves out
on such a scale; how often it holds: ``benchmarks/results/coverage.md``).

.. math:: z - b \pm t_\nu \sqrt{\textstyle\sum_g v_g}, \quad
          b = \sum_g (n_g - 1)(\bar z_g - z), \quad
          v_g = \frac{n_g - 1}{n_g} \sum_{i \in g} (z_{-i} - \bar z_g)^2

with z_{-i} the score without unit i, a group g's mean of them, and Welch and Satterthwaite's
degrees of freedom.
"""

from __future__ import annotations

import numpy as np

from .clusters import has_lonely, left_out, units_of
from .intervals import LEVEL, Interval, wider
from .statistic import Statistic, Weighted

__all__ = ["stable_interval", "student"]

# Units up to which each is left out once: above, Student's quantile is the normal's to 0.3 %.
LEFT_OUT = 500


def stable_interval(statistic: Statistic) -> Interval:
    """Return the interval of a score that has a stable scale, the wider of clusters and items.

    None where a stratum has one cluster, or the score is undefined without one of them: items alone
    would say what other items of these very clusters give. The standard error is half of what one
    of them on the scale spans of the score.
    """
    if has_lonely(statistic):
        return Interval()
    of_clusters = _on_its_scale(statistic, items=False)
    if of_clusters.low is None:
        return of_clusters
    return wider(of_clusters, _on_its_scale(statistic, items=True))


def _on_its_scale(statistic: Statistic, items: bool) -> Interval:
    from scipy.stats import t

    stable = statistic.stable
    assert stable is not None
    of_item, groups = units_of(statistic, items)
    several = [members for members in groups if len(members) > 1]
    if not several:
        return Interval()
    left = left_out(stable.value, of_item, sum(map(len, groups)))
    z = float(stable.value(np.ones((1, len(of_item))))[0])
    n, v = _variances(left, several)
    bias = sum((len(m) - 1) * (float(left[m].mean()) - z) for m in several)
    if not np.isfinite(z + bias) or not np.isfinite(v).all() or v.sum() <= 0:
        return Interval()
    error, freedom = v.sum() ** 0.5, _freedom(n, v)
    beyond = error * float(t.ppf(1 - (1 - LEVEL) / 2, freedom))
    ends = [stable.restore(float(z - bias + sign * beyond)) for sign in (-1, 1)]
    one = [stable.restore(float(z + sign * error)) for sign in (-1, 1)]
    return Interval(ends[0], ends[1], (one[1] - one[0]) / 2)


def student(function: Weighted, statistic: Statistic, items: bool) -> tuple[float, float]:
    """Return the degrees of freedom and the inflation that a score's resamples need.

    Each unit is left out once. A group of n units adds the jackknife's v to the score's variance,
    of which resamples have (n-1)/n, with n-1 degrees of freedom; together these have
    (sum v)^2 / sum v^2/(n-1), by Welch and Satterthwaite.
    """
    of_item, groups = units_of(statistic, items)
    total = sum(map(len, groups))
    varying = sum(len(members) for members in groups if len(members) > 1)
    free = total - len(groups)  # of units, were all groups alike
    if total > LEFT_OUT:
        return float(free), varying / free
    left = left_out(function, of_item, total)
    n, v = _variances(left, [members for members in groups if len(members) > 1])
    if not np.isfinite(v).all() or v.sum() <= 0:
        return float(free), varying / free
    return _freedom(n, v), float(v.sum() / (v * (n - 1) / n).sum())


def _variances(left: np.ndarray, several: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the sizes of groups of units and what each adds to a score's variance."""
    n = np.asarray([len(members) for members in several], dtype=float)
    spread = np.asarray([((left[m] - left[m].mean()) ** 2).sum() for m in several])
    return n, (n - 1) / n * spread


def _freedom(n: np.ndarray, v: np.ndarray) -> float:
    return float(v.sum() ** 2 / (v**2 / (n - 1)).sum())
