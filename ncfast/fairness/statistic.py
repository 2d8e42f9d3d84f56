"""What a benchmark reports, as functions of how often each item counts.

A statistic is a function of item weights, so that one definition gives the score (all weights 1),
its bootstrap (weights from resampled clusters) and the paired difference of two models (the same
weights for both).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Stable", "Statistic", "difference_of_means", "distances", "extreme", "mean"]

Weighted = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Stable:
    """Hold a score on a scale on which its error hardly depends on it, and the way back."""

    value: Weighted  # from item weights [R, n] to the scale [R], rising with the score
    restore: Callable[[float], float]  # from the scale to the score of these items


@dataclass(frozen=True)
class Statistic:
    """Define one score of one subset."""

    # subset, variant, metric: its fixed names in ``evaluation.json``
    subset: str
    variant: str
    metric: str
    value: Weighted  # from item weights [R, n] to scores [R]; NaN where undefined
    items: Sequence[str]  # id of each item, for pairing models [n]
    clusters: Sequence[str]  # what is resampled together, a name per item [n]
    strata: Sequence[str] = ()  # clusters are resampled within these [n]; empty: one stratum
    # the value of a model without the bias; None for a measure of ability
    unbiased: float | None = None
    # which way each item went, 1, 0, or 0.5 for a tie [n]: McNemar's test of two models where each
    # item is a cluster, else a sign-flip test over clusters
    verdicts: np.ndarray | None = None
    # what each item contributes [n]: sign-flip test over clusters
    effects: np.ndarray | None = None
    # each item's own weight in the score [n], as ``base`` of :func:`mean`; None: 1
    shares: np.ndarray | None = None
    note: str = ""  # what a reader has to know
    resampled: bool = field(default=True)  # whether it has an interval
    bounds: tuple[float, float] = (
        -np.inf,
        np.inf,
    )  # the smallest and the largest value it can take
    # smooth scores of which it is the largest or the smallest, by ``pick``: of abs(SS - 50) these
    # are SS - 50 and 50 - SS; empty: it is smooth itself
    pieces: Sequence[Weighted] = ()
    pick: Callable[[Sequence[float]], float] = max
    # the scale on which its interval is made, by leaving units out; None: it is of resamples
    stable: Stable | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """Return subset, variant and metric."""
        return self.subset, self.variant, self.metric


def mean(values: np.ndarray, base: np.ndarray | None = None, scale: float = 1.0) -> Weighted:
    r"""Return the weighted mean of item values v [n], as a function of weights [R, n].

    .. math:: c \, \sum_i w_i b_i v_i \Big/ \sum_i w_i b_i

    b is each item's own weight [n]: 1/n_t for a macro average over target words, None for 1.

    >>> mean(np.array([0.0, 1.0, 1.0]), scale=100)(np.ones((1, 3))).round(4).tolist()
    [66.6667]
    """
    # float64 at once: numpy.bool_ + numpy.bool_ is a logical or, and halves a score in silence.
    v = np.asarray(values, dtype=np.float64)
    b = np.ones_like(v) if base is None else np.asarray(base, dtype=np.float64)

    def value(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return scale * (weights @ (b * v)) / (weights @ b)

    return value


def difference_of_means(values: np.ndarray, first: np.ndarray, second: np.ndarray) -> Weighted:
    """Return the mean over one group of items (bool [n]) less the mean over another.

    >>> group = np.array([True, False])
    >>> difference_of_means(np.array([3.0, 1.0]), group, ~group)(np.ones((1, 2))).tolist()
    [2.0]
    """
    one, two = mean(values, first), mean(values, second)
    return lambda weights: one(weights) - two(weights)


def distances(value: Weighted, target: float) -> tuple[Weighted, Weighted]:
    """Return a statistic's distances above and below a target; the larger is the absolute one.

    >>> above, below = distances(mean(np.array([0.0, 1.0]), scale=100), 60)
    >>> above(np.ones((1, 2))).tolist(), below(np.ones((1, 2))).tolist()
    ([-10.0], [10.0])
    """
    return (lambda weights: value(weights) - target), (lambda weights: target - value(weights))


def extreme(pick: Callable[[Sequence[float]], float], pieces: Sequence[Weighted]) -> Weighted:
    """Return the largest (``pick`` is max) or the smallest (min) of some statistics.

    >>> extreme(max, distances(mean(np.array([0.0, 1.0]), scale=100), 60))(np.ones((1, 2)))
    array([10.])
    """
    reduce = np.max if pick is max else np.min
    return lambda weights: reduce([piece(weights) for piece in pieces], axis=0)
