r"""Pairs of points that are known up to an error only, in float64, from differences.

A point's error :math:`\epsilon` (:mod:`.rounding`) decides which of its pairs have a value: two
points no further apart than :math:`\epsilon_a + \epsilon_b` may be equal, a point within
:math:`\epsilon + \epsilon_0` of the center has no direction, and two directions no further apart
than :math:`\rho_a + \rho_b` may be the same. :func:`entangled` finds points that all such
pairs hold one of; all pairs of the others may be formed by any fast method.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry import Rows, unit_rows

__all__ = ["Known", "KnownRows", "PairValues", "entangled", "known_parts", "squared_distances"]

TILE = 512  # rows of a tile of pairs: 2 MiB a matrix
CHUNK = 1 << 22  # float64 values of differences at a time: 32 MiB
OF_UNITS = ("log_distance", "riesz")  # kinds that are functions of the distance of directions
NEAR = 1e-6  # share of the squares below which a product of rows has lost too many digits


@dataclass(frozen=True)
class Known:
    """Say how well points are known.

    Args:
        reach: [K] float64, how far each may lie from the exact one.
        center: the same of their center.
    """

    reach: Tensor
    center: float = 0.0


class KnownRows:
    """Hold some rows less their center, their directions, and how well both are known.

    Args:
        rows: [n, D] float64.
        reach: [n] float64.
        center: the error of the center.
    """

    def __init__(self, rows: Tensor, reach: Tensor, center: float) -> None:
        self.rows, self.reach = rows, reach
        norms = rows.norm(dim=1)
        far = reach + center
        self.directed = norms > far
        self.units = unit_rows(rows).masked_fill(~self.directed[:, None], 0.0)
        self.angle = far / torch.where(self.directed, norms, torch.inf)

    def as_column(self) -> KnownRows:
        """Return the same with what is one number per row as a column."""
        column = copy.copy(self)
        for name in ("reach", "directed", "angle"):
            setattr(column, name, getattr(self, name)[:, None])
        return column


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return [n, m] float64 of [n, D] and [m, D]; of near pairs again from their differences."""
    lengths = a.square().sum(1)[:, None] + b.square().sum(1)
    square = lengths - 2 * (a @ b.T)
    i, j = (square < NEAR * lengths).nonzero(as_tuple=True)
    step = max(1, CHUNK // max(a.shape[1], 1))
    for left, right in zip(i.split(step), j.split(step), strict=True):
        square[left, right] = (a[left] - b[right]).square().sum(1)
    return square


class PairValues:
    """Hold pairs of rows: distances, cosines, and which of them mean something.

    Args:
        a, b: the rows of the pairs.
        square: of their distances; None takes all pairs of ``a`` and ``b``, [n, m], others those
            at equal places, [n].

    Attributes:
        square, unit_square, cosine: float64.
        same: bool, pairs of points that may be equal.
        one_direction: bool, pairs whose directions may be equal, or do not exist.
    """

    def __init__(self, a: KnownRows, b: KnownRows, square: Tensor | None = None) -> None:
        if square is None:
            a = a.as_column()
            self.square = squared_distances(a.rows, b.rows)
            self.unit_square = squared_distances(a.units, b.units)
            cosine = a.units @ b.units.T
        else:
            self.square, cosine = square, (a.units * b.units).sum(1)
            self.unit_square = (a.units - b.units).square().sum(1)
        self.cosine = cosine.clamp(-1, 1)
        self.same = self.square <= (a.reach + b.reach).square()
        self.one_direction = ~(a.directed & b.directed)
        self.one_direction |= self.unit_square <= (a.angle + b.angle).square()

    def of(self, kind: str, power: int, variance: Tensor) -> Tensor:
        """Return one value per pair of a kind of :func:`ncfast.functional.pair_stats`, or NaN."""
        if kind == "cosine":
            return self.cosine
        if kind in OF_UNITS:  # of log_distance the power is 1
            return -power * torch.where(self.one_direction, math.nan, self.unit_square).log() / 2
        square = torch.where(self.same, math.nan, self.square)
        return variance / square**power if kind == "cdnv" else -square.log() / 2

    def rounded(self, kind: str) -> Tensor:
        """Return which pairs have no value though they differ."""
        if kind == "cosine":
            return torch.zeros_like(self.same)
        if kind in OF_UNITS:
            return self.one_direction & (self.unit_square > 0)
        return self.same & (self.square > 0)


def known_parts(rows: Rows, known: Known, size: int | None = None) -> Iterator[KnownRows]:
    """Yield the rows of a matrix with what is known of them, some at a time."""
    size = size or TILE
    for part, reach in zip(rows.parts(size), known.reach.split(size), strict=True):
        yield KnownRows(part, reach, known.center)


def entangled(rows: Rows, known: Known) -> Tensor:
    """Return [K] bool: points without a direction, and one of every pair that may be equal.

    Args:
        rows: the points and their center.
        known: how well they are known.

    >>> points = torch.tensor([[1.0, 0.0], [1.0 + 1e-9, 0.0], [0.0, 2.0]]).double()
    >>> rows = Rows(points, torch.arange(3), torch.zeros(2).double())
    >>> entangled(rows, Known(torch.full((3,), 1e-8).double())).tolist()
    [True, False, False]
    """
    found = torch.zeros(rows.count, dtype=torch.bool, device=rows.points.device)
    for i, a in enumerate(known_parts(rows, known)):
        found[i * TILE : (i + 1) * TILE] |= ~a.directed
        for j, b in enumerate(known_parts(rows, known)):
            if j < i:
                continue
            tile = PairValues(a, b)
            touching = tile.same | tile.one_direction
            touching &= a.directed[:, None] & b.directed
            if i == j:
                touching = touching.triu(1)
            found[i * TILE : (i + 1) * TILE] |= touching.any(1)
    return found
