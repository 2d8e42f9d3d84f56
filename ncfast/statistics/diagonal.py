"""The spread of every class along every axis: what a diagonal covariance per class needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Before", "add_batch", "remember"]

_COLUMNS = 64  # axes at a time: 4 MiB of float64 at 8,192 tokens


@dataclass(frozen=True)
class Before:
    """Hold counts and means of the classes of a batch, as they were before it."""

    rows: Tensor  # [T'] int64, the tokens that count, sorted by class
    slots: Tensor  # [T] int64, the slots that occur
    sizes: Tensor  # [T] int64, tokens of each in the batch
    counts: Tensor  # [T] int64, and means [T, D], of the state
    means: Tensor


def remember(slots: Tensor, counts: Tensor, means: Tensor) -> Before:
    """Copy what :func:`add_batch` needs of counts [K] and means [K, D] before it changes them.

    A slot [N] that is out of range is left to the op that rejects it.
    """
    kept = ((slots >= 0) & (slots < counts.numel())).nonzero()[:, 0]
    order = torch.argsort(slots[kept], stable=True)
    found, sizes = torch.unique_consecutive(slots[kept][order], return_counts=True)
    return Before(kept[order], found, sizes, counts[found], means[found])


def add_batch(diagonal: Tensor, before: Before, x: Tensor) -> None:
    r"""Merge a batch into sums of squared deviations per class and axis, in place.

    .. math:: M_{cd} \mathrel{+}= \sum_{i: y_i = c} (x_{id} - \mu^b_{cd})^2
              + \frac{n_a n_b}{n_a + n_b} (\mu^b_{cd} - \mu^a_{cd})^2

    Args:
        diagonal: [K, D] float64; the rows of the batch's classes grow.
        before: from :func:`remember`.
        x: [N, D] float, the batch.

    Sums run over tokens sorted by class, in a fixed order on every device.

    Source: Chan, Golub and LeVeque (1979).

    >>> counts, means, diagonal = torch.tensor([0]), torch.zeros(1, 2), torch.zeros(1, 2).double()
    >>> before = remember(torch.tensor([0, -100, 0]), counts, means)
    >>> add_batch(diagonal, before, torch.tensor([[1.0, 0], [9, 9], [3, 0]]))
    >>> diagonal.tolist()
    [[2.0, 0.0]]
    """
    if not before.rows.numel():
        return
    sizes, old = before.sizes.double()[:, None], before.counts.double()[:, None]
    owner = torch.repeat_interleave(before.sizes)
    for axes in torch.arange(x.shape[1], device=x.device).split(_COLUMNS):
        part = x[:, axes][before.rows].double()
        mean = torch.segment_reduce(part, "sum", lengths=before.sizes, axis=0) / sizes
        spread = (part - mean[owner]).square()
        grown = torch.segment_reduce(spread, "sum", lengths=before.sizes, axis=0)
        difference = mean - before.means[:, axes].double()
        grown += difference.square() * (old * sizes / (old + sizes))
        diagonal[before.slots[:, None], axes] += grown
