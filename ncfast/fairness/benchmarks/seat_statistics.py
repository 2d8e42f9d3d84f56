"""What SEAT and WEAT report of associations: an effect size, and its p by permutation."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np

from ..statistic import Stable, Weighted

__all__ = ["effect_size", "permutation_p_value", "stable_effect_size"]

EXACT = 20_000  # partitions up to which every one is counted: 8 + 8 words have 12,870
SAMPLED = 10_000
BLOCK = 1000  # partitions at a time
TIE = 1e-12


def effect_size(s: np.ndarray, first: np.ndarray) -> Weighted:
    """Return the effect size as a function of item weights [R, n], from associations s [n].

    >>> s, first = np.array([0.4, 0.08, -0.4, -0.08]), np.array([True, True, False, False])
    >>> effect_size(s, first)(np.ones((1, 4))).round(6).tolist()
    [1.441153]
    """

    def value(weights: np.ndarray) -> np.ndarray:
        total = weights.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            x = (weights * first) @ s / (weights @ first)
            y = (weights * ~first) @ s / (weights @ ~first)
            average = weights @ s / total
            spread = (weights * (s[None] - average[:, None]) ** 2).sum(1)
            deviation = np.sqrt(spread / (total - 1))
            scale = np.abs(s).max(initial=0.0)
            return np.where(deviation > TIE * max(scale, TIE), (x - y) / deviation, np.nan)

    return value


def stable_effect_size(s: np.ndarray, first: np.ndarray) -> Stable:
    r"""Return the effect size on Hedges and Olkin's scale, on which its variance hardly varies.

    .. math:: z = \operatorname{asinh}\frac{g}{\sqrt 8}, \quad
              g = \frac{\overline{s}_X - \overline{s}_Y}{\mathrm{sd}_{\mathrm{within}}(s)}, \quad
              d = g \Big/ \sqrt{\frac{N-2}{N-1} + \frac{n_X n_Y}{N(N-1)}\,g^2}

    g is over the standard deviation within X and Y (ddof 2). Source: Hedges and Olkin 1985,
    "Statistical Methods for Meta-Analysis", chapter 5 (their h, but for a factor).

    >>> s, first = np.array([0.4, 0.08, -0.4, -0.08]), np.array([True, True, False, False])
    >>> stable = stable_effect_size(s, first)
    >>> round(stable.restore(float(stable.value(np.ones((1, 4)))[0])), 6)
    1.441153
    """

    def value(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            gap, within = np.zeros(len(weights)), np.zeros(len(weights))
            for group, sign in ((first, 1), (~first, -1)):
                of = weights * group
                average = of @ s / of.sum(1)
                gap += sign * average
                within += (of * (s[None] - average[:, None]) ** 2).sum(1)
            deviation = np.sqrt(within / (weights.sum(1) - 2))
            scale = np.abs(s).max(initial=0.0)
            g = np.where(deviation > TIE * max(scale, TIE), gap / deviation, np.nan)
            return np.arcsinh(g / 8**0.5)

    one, n = int(first.sum()), len(s)

    def restore(z: float) -> float:
        g = 8**0.5 * math.sinh(z)
        return g / math.hypot(
            ((n - 2) / (n - 1)) ** 0.5, g * (one * (n - one) / n / (n - 1)) ** 0.5
        )

    return Stable(value, restore)


def permutation_p_value(s: np.ndarray, first: np.ndarray, seed: int = 0) -> float:
    """Return the one-sided p of mean(s of X) - mean(s of Y) under exchange of X and Y.

    It is the share of partitions at least as extreme, ties included to 1e-12; ``seed`` draws them
    where there are more than 20,000.

    >>> s, first = np.array([0.4, 0.08, -0.4, -0.08]), np.array([True, True, False, False])
    >>> round(permutation_p_value(s, first), 4)
    0.1667
    """
    n, k = len(s), int(first.sum())
    if k in (0, n) or np.ptp(s) <= TIE * max(1.0, float(np.abs(s).max())):
        return 1.0
    # Not scipy's permutation_test: its ties are to 2e-14 of the observed difference, less than sums
    # in another order differ by where that is near 0.
    # With both sizes fixed, the sum over X orders partitions as the difference of means does.
    observed = s[first].sum() - TIE * max(1.0, float(np.abs(s).sum()))
    partitions, exact = _partitions(n, k, seed)
    hits = sum(
        int((s[partitions[start : start + BLOCK]].sum(1) >= observed).sum())
        for start in range(0, len(partitions), BLOCK)
    )
    return hits / len(partitions) if exact else (hits + 1) / (len(partitions) + 1)


@functools.lru_cache(maxsize=16)  # of 28 tests in 3 variants, 12 sizes
def _partitions(n: int, k: int, seed: int) -> tuple[np.ndarray, bool]:
    """Return who is in X in some partitions of n into k and the rest [p, k]; whether in all."""
    small = np.min_scalar_type(n)
    if math.comb(n, k) <= EXACT:
        chosen = itertools.chain.from_iterable(itertools.combinations(range(n), k))
        return np.fromiter(chosen, small).reshape(-1, k), True
    generator = np.random.default_rng(seed)
    sampled = np.empty((SAMPLED, k), small)
    for row in sampled:
        row[:] = generator.permutation(n)[:k]
    return sampled, False
