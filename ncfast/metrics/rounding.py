r"""How far class means of statistics lie from the exact ones, and what an eigenvalue may be of it.

With the errors :math:`e_c` of :mod:`ncfast.rounding`: for the matrix E of all errors and any
direction v in which exact means would not differ, the eigenvalue of Sigma_B found is at most
:math:`\|E\|_2^2 / K \le \|E\|_F^2 / K = \frac1K \sum_c \|e_c\|^2` (Weyl), so this is the cut-off.
For errors that are independent between axes it is D times more than a direction gets; but a layer
that normalises in front of the head errs in common to all axes, by :math:`\sqrt D` times more in
the one direction it removes, and needs that room.

Features in bfloat16 or float16 are rounded axis by axis after such a layer, which computes in
float32: their error :math:`N_d = u_x^2 \frac1K \sum_c (\mu_{cd}^2 + \sigma_c^2 / D) / n_c`, three
times its variance, is taken along the direction, :math:`v^\top N v`, times
:math:`(1 + \sqrt{D / K})^2`, the largest of D directions of K independent errors. All
axes' error for each direction would cut real ones off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry import ROWS, Rows
from ..rounding import SINGLE, center_error, mean_errors, unit_roundoff
from ..statistics import ClassStatistics

__all__ = ["Rounding", "rounding_of_means"]


@dataclass(frozen=True)
class Rounding:
    """Hold bounds on the squared error of class means."""

    classes: Tensor  # [K] float64, of each mean, over all axes
    # their mean, from the precision that means and features were computed in: at most this much is
    # an eigenvalue of Sigma_B in any direction
    anywhere: float
    # [D] float64, the mean along each axis, from features that were stored in half precision; zero
    # where none were. To be taken along a direction.
    axes: Tensor
    unit: float  # the coarsest unit roundoff that sums were computed with
    center: float = 0.0  # the error of the center, over all axes, not squared

    @property
    def reach(self) -> Tensor:
        """[K] float64, how far each mean may lie from the exact one."""
        return self.classes.sqrt()

    def along(self, vectors: Tensor) -> Tensor:
        """Return [R], what an eigenvalue of each of [D, R] unit columns may be without meaning."""
        width, classes = self.axes.numel(), max(self.classes.numel(), 1)
        room = (1 + math.sqrt(width / classes)) ** 2
        return self.anywhere + room * (self.axes @ vectors.square())

    @property
    def total(self) -> float:
        """What the trace of Sigma_B may be without meaning."""
        return float(self.classes.mean()) if self.classes.numel() else 0.0


def rounding_of_means(stats: ClassStatistics, slots: Tensor, center: str = "none") -> Rounding:
    """Bound the rounding of the means of some classes.

    Args:
        stats: the means, their counts, and how coarse the features were that made them.
        slots: [K] int64, the classes.
        center: what they are measured from, as in :func:`ncfast.neural_collapse`.

    >>> stats = ClassStatistics(2, 1)
    >>> stats.update(torch.tensor([[1.0], [1.0]]), torch.tensor([0, 1]))
    >>> found = rounding_of_means(stats, torch.tensor([0, 1]))
    >>> 2 < found.anywhere**0.5 * 2**24 < 4
    True
    """
    coarsest = stats.feature_roundoff
    unit = max(unit_roundoff(stats.dtype), min(coarsest, SINGLE))
    half = coarsest if coarsest > SINGLE else 0.0
    counts = stats.counts[slots].double()
    axes = torch.zeros(stats.dim, dtype=torch.float64, device=counts.device)
    squares = [counts.new_zeros(0)]
    spreads = (stats.m2[slots] / counts).split(ROWS)
    for part, n, spread in zip(
        Rows(stats.means, slots).parts(), counts.split(ROWS), spreads, strict=True
    ):
        square = part.square() + spread[:, None] / stats.dim
        squares.append(square.sum(1))
        axes += (square / n[:, None]).sum(0)
    lengths = torch.cat(squares)
    anywhere = float(mean_errors(lengths, counts, unit).mean()) if counts.numel() else 0.0
    classes = mean_errors(lengths, counts, unit, half)
    return Rounding(
        classes,
        anywhere,
        half**2 * axes / max(counts.numel(), 1),
        unit,
        _error_of_center(stats, classes, counts, center),
    )


def _error_of_center(stats: ClassStatistics, classes: Tensor, counts: Tensor, center: str) -> float:
    """Return the error of the mean of means whose squared errors are ``classes``."""
    if center == "none" or not counts.numel():
        return 0.0
    if center == "all":
        present = (stats.counts > 0).nonzero()[:, 0]
        return rounding_of_means(stats, present, "classes").center
    weights = counts if center == "tokens" else torch.ones_like(counts)
    return float(center_error(classes, weights))
