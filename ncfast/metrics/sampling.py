"""Estimates from pairs drawn at random, with standard errors and intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["DRAWN_LEAST", "Estimate", "drawn_pairs", "estimate_mean", "estimate_std", "tiled"]

DRAWN_LEAST = 100  # pairs; a skewness from fewer says nothing
_QUANTILE = 1.959964  # of the normal distribution, for 95 %


@dataclass(frozen=True)
class Estimate:
    """Hold an estimate with its standard error and 95 % interval."""

    # value, error, low, high: what the names say
    value: float
    error: float
    low: float
    high: float
    # skewness over the root of the number of pairs; the larger, the more single rare pairs decide
    # the value
    imbalance: float


def drawn_pairs(count: int, pairs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw positions i and j [pairs], i != j, uniform over pairs of ``count`` rows, put back."""
    generator = torch.Generator().manual_seed(seed)
    i = torch.randint(count, (pairs,), generator=generator)
    j = torch.randint(count - 1, (pairs,), generator=generator)
    return i, j + (j >= i)


def tiled(a: Tensor, b: Tensor, rows: int) -> list[Tensor]:
    """Return where pairs of rows (a, b) stand, grouped so that a group needs two tiles of rows.

    One [n] int64 for every two tiles that have pairs, in rising order of ``a``. The first tile is
    kept while the second goes through the others: forth, and for the next first one back.

    >>> a, b = torch.tensor([0, 5, 3, 1]), torch.tensor([4, 1, 0, 0])
    >>> [group.tolist() for group in tiled(a, b, rows=3)]
    [[3], [0, 2, 1]]
    """
    if not a.numel():
        return []
    tiles = int(torch.maximum(a, b).max()) // rows + 1
    first, second = torch.minimum(a, b) // rows, torch.maximum(a, b) // rows
    group = first * tiles + torch.where(first % 2 == 0, second, tiles - 1 - second)
    order = torch.argsort(a, stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    _, sizes = torch.unique_consecutive(group[order], return_counts=True)
    return list(order.split(sizes.tolist()))


def estimate_mean(values: Tensor) -> Estimate:
    """Estimate the mean over all pairs from values [n] of pairs drawn independently.

    >>> found = estimate_mean(torch.tensor([1.0, 2.0, 3.0, 6.0]).double())
    >>> found.value, found.low < 3 < found.high
    (3.0, True)
    """
    mean = float(values.mean())
    return _estimate(mean, values - mean)


def estimate_std(values: Tensor) -> Estimate:
    """Estimate the standard deviation over all pairs, by its influence (v^2 - s^2) / 2s."""
    deviation = values - values.mean()
    std = float(values.std())
    return _estimate(
        std, (deviation.square() - std**2) / (2 * std) if std else torch.zeros_like(deviation)
    )


def _estimate(value: float, influence: Tensor) -> Estimate:
    r"""Turn centred influences of n pairs into an interval.

    The t interval misses to one side where few pairs are large, as with 1 / distance^4. Hall's
    transformation takes the skewness g out: with :math:`q = \sqrt n^{-1} z - g / 6n`, the ends are
    :math:`value - s \frac3g ((1 + g q)^{1/3} - 1)` at :math:`z = \pm 1.96` (Hall 1992, On the
    removal of skewness by transformation).
    """
    count = influence.numel()
    spread = float(influence.square().mean().sqrt())
    if spread == 0:
        return Estimate(value, 0.0, value, value, 0.0)
    skewness = float((influence / spread).pow(3).mean())
    ends = []
    for z in (_QUANTILE, -_QUANTILE):
        q = z / math.sqrt(count) - skewness / (6 * count)
        root = 1 + skewness * q
        moved = 3 / skewness * (math.copysign(abs(root) ** (1 / 3), root) - 1) if skewness else q
        ends.append(value - spread * moved)
    error = spread / math.sqrt(count)
    return Estimate(value, error, ends[0], ends[1], abs(skewness) / math.sqrt(count))
