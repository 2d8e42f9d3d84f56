"""What SEAT and WEAT report of associations: an effect size, and its p by permutation."""

from __future__ import annotations

import itertools
import math

import numpy as np

from ..statistic import Weighted

__all__ = ["effect_size", "permutation_p_value"]

EXACT = 20_000  # partitions up to which every one is counted: 8 + 8 words have 12,870
SAMPLED = 10_000
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
    if math.comb(n, k) <= EXACT:
        chosen = np.fromiter(
            itertools.chain.from_iterable(itertools.combinations(range(n), k)), int
        )
        return float((s[chosen.reshape(-1, k)].sum(1) >= observed).mean())
    generator = np.random.default_rng(seed)
    hits = sum(int(s[generator.permutation(n)[:k]].sum() >= observed) for _ in range(SAMPLED))
    return (hits + 1) / (SAMPLED + 1)
