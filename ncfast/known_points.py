r"""Pairs of points that are known up to an error only, in float64, from differences.

A point's error :math:`\epsilon` (:mod:`ncfast.rounding`) decides which of its pairs have a value:
two points no further apart than :math:`\epsilon_a + \epsilon_b` may be equal, a point within
:math:`\epsilon + \epsilon_0` of the center has no direction, and two directions no further apart
than :math:`\rho_a + \rho_b` may be the same. :mod:`ncfast.near_points` finds points that all such
pairs hold one of; all pairs of the others may be formed by any fast method.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .geometry import ROWS, Rows

__all__ = [
    "Known",
    "KnownRows",
    "KnownTile",
    "PairValues",
    "differences",
    "known_parts",
    "may_touch",
    "squared_distances",
    "tiles_with",
]

TILE = 512  # rows of a tile of pairs: 2 MiB a matrix
CHUNK = 1 << 22  # float64 values of differences at a time: 32 MiB
OF_UNITS = ("log_distance", "riesz")  # kinds that are functions of the distance of directions
NEAR = 1e-6  # share of the squares below which a product of rows has lost too many digits


@dataclass(frozen=True)
class Known:
    """Say how well points are known."""

    reach: Tensor  # [K] float64, how far each may lie from the exact one
    center: float | Tensor = 0.0  # the same of their center


class KnownRows:
    """Hold some rows less their center, their directions, and how well both are known.

    Args:
        rows: [n, D] float64.
        reach: [n] float64.
        center: the error of the center.
    """

    def __init__(self, rows: Tensor, reach: Tensor, center: float | Tensor) -> None:
        self.rows, self.reach, self._center = rows, reach, center

    @functools.cached_property
    def norms(self) -> Tensor:
        """[n], the lengths of the rows."""
        return self.rows.norm(dim=1)

    @functools.cached_property
    def directed(self) -> Tensor:
        """[n] bool, whether a row is further from the center than both are known to."""
        return self.norms > self.reach + self._center

    @functools.cached_property
    def units(self) -> Tensor:
        """[n, D], the directions; zero where there is none."""
        return self.rows / torch.where(self.directed, self.norms, torch.inf)[:, None]

    @functools.cached_property
    def angle(self) -> Tensor:
        """[n], how far each direction may lie from the exact one."""
        return (self.reach + self._center) / torch.where(self.directed, self.norms, torch.inf)

    def as_column(self) -> KnownRows:
        """Return the same with what is one number per row as a column."""
        self.units  # noqa: B018 : what it is made of is no longer one number per row
        column = copy.copy(self)
        for name, value in (
            ("angle", self.angle),
            ("directed", self.directed),
            ("reach", self.reach),
        ):
            vars(column)[name] = value[:, None]
        return column


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return [n, m] float64 of [n, D] and [m, D]; of near pairs again from their differences."""
    lengths = a.square().sum(1)[:, None] + b.square().sum(1)
    square = lengths - 2 * (a @ b.T)
    for left, right, difference in differences(a, b, square < NEAR * lengths):
        square[left, right] = difference.square().sum(1)
    return square


def differences(a: Tensor, b: Tensor, near: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield places in a and b, and the differences, of pairs that ``near`` [n, m] names."""
    i, j = near.nonzero(as_tuple=True)
    step = max(1, CHUNK // max(a.shape[1], 1))
    for left, right in zip(i.split(step), j.split(step), strict=True):
        yield left, right, a[left] - b[right]


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
        self._tile = square is None
        self._a, self._b = a.as_column() if self._tile else a, b
        self.square = squared_distances(a.rows, b.rows) if square is None else square

    @functools.cached_property
    def unit_square(self) -> Tensor:
        a, b = self._a.units, self._b.units
        return squared_distances(a, b) if self._tile else (a - b).square_().sum(1)

    @functools.cached_property
    def cosine(self) -> Tensor:
        a, b = self._a.units, self._b.units
        return (a @ b.T if self._tile else (a * b).sum(1)).clamp_(-1, 1)

    @functools.cached_property
    def same(self) -> Tensor:
        return self.square <= (self._a.reach + self._b.reach).square()

    @functools.cached_property
    def one_direction(self) -> Tensor:
        near = self.unit_square <= (self._a.angle + self._b.angle).square()
        return ~(self._a.directed & self._b.directed) | near

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


def may_touch(rows: Rows, known: Known, greatest: Mapping[str, Tensor]) -> bool:
    """Return whether a point may have no direction, or a pair may be equal; reads the device once.

    Args:
        rows: the points and their center.
        known: how well they are known.
        greatest: of kinds of :func:`ncfast.functional.pair_stats`, the logarithm of one over the
            least distance it found, NaN without a pair. Of cosine alone directions are asked.
    """
    touch = torch.zeros((), dtype=torch.bool, device=rows.points.device)
    angle = known.reach.new_zeros(())
    if {"cosine", *OF_UNITS} & greatest.keys():
        for part in known_parts(rows, known, ROWS):
            touch = touch | ~part.directed.all()
            angle = torch.maximum(angle, part.angle.amax())
    # Twice what two errors explain, and for directions a few roundings of unit vectors more: fast
    # methods form values in float32.
    of_units = 4 * angle + 1e-6
    tolerance = {
        "log_distance_raw": 4 * known.reach.amax(),
        "log_distance": of_units,
        "riesz": of_units,
    }
    for kind, found in greatest.items():
        if kind in tolerance:  # NaN compares as False
            touch = touch | ((-found.double()).exp() <= tolerance[kind])
    return bool(touch)


class KnownTile(NamedTuple):
    """Hold n rows and m, where they stand among all, and which of their pairs are meant [n, m]."""

    left: Tensor
    right: Tensor
    a: KnownRows
    b: KnownRows
    once: Tensor


def tiles_with(rows: Rows, known: Known, some: Tensor) -> Iterator[KnownTile]:
    """Yield the pairs that hold one of ``some`` [K] bool, or two, each once, a tile at a time."""
    places = torch.arange(rows.count, device=some.device)
    mine, few = places[some], Known(known.reach[some], known.center)
    for left, a in zip(mine.split(TILE), known_parts(rows.some(mine), few), strict=True):
        for right, b in zip(places.split(TILE), known_parts(rows, known), strict=True):
            # Of two such points the pair is taken at the first.
            yield KnownTile(left, right, a, b, ~some[right] | (left[:, None] < right))
