"""Which points touch another: differ from it by no more than both are known to.

All pairs in all of D would cost more than the term itself. Few touch, so that nearly all are told
apart along some axes, and only what is near there is compared exactly.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from .geometry import ROWS, Rows
from .known_points import CHUNK, OF_UNITS, TILE, Known, KnownRows, PairValues, known_parts

__all__ = ["touching_points"]

AXES = 64


def _projected(rows: Rows, known: Known, of_units: bool) -> tuple[Tensor, Tensor]:
    """Return the points, or directions, along some orthonormal axes [K, A], and their errors [K].

    Two are no further apart there than they are. One axis alone would tell hardly any two apart: a
    difference is spread over all of them, while the errors, which bound its length, are not.
    """
    size, seeded = (rows.width, min(AXES, rows.width)), torch.Generator().manual_seed(0)
    axes = torch.randn(size, generator=seeded, dtype=torch.float32)
    axes = torch.linalg.qr(axes.double()).Q.to(rows.points.device)
    places, reach = [], []
    for part in known_parts(rows, known, ROWS):
        places.append((part.units if of_units else part.rows) @ axes)
        reach.append(part.angle if of_units else part.reach)
    return torch.cat(places), torch.cat(reach)


def _candidates(places: Tensor, reach: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pairs that may be no further apart than their errors, each once, a tile at a time.

    ``places`` [K, A] are sorted along the first axis: most pairs of tiles are far apart along it.
    """
    first = places[:, 0]
    lows = [part.amin() for part in (first - reach).split(TILE)]
    highs = [part.amax() for part in (first + reach).split(TILE)]
    low, high = torch.stack([torch.stack(lows), torch.stack(highs)]).tolist()
    tolerance = 1e-14 * float(first.abs().amax())
    lengths, own = places.square().sum(1).split(TILE), reach.split(TILE)
    parts = places.split(TILE)
    for i, a in enumerate(parts):
        for j in range(i, len(parts)):
            if low[j] > high[i] + tolerance or low[i] > high[j] + tolerance:
                continue
            both = lengths[i][:, None] + lengths[j]
            # Distances from products are good to some roundings of the lengths.
            bound = (own[i][:, None] + own[j]).square() + 1e-13 * both
            near = both - 2 * (a @ parts[j].T) <= bound
            left, right = (near.triu(1) if i == j else near).nonzero(as_tuple=True)
            yield left + i * TILE, right + j * TILE


def touching_points(rows: Rows, known: Known, kinds: Collection[str]) -> Tensor:
    """Return [K] bool: one at least of every pair that one of some kinds has no value of.

    Of directions, the cosine among them, these are all points without one, too.

    Args:
        rows: the points and their center.
        known: how well they are known.
        kinds: of :func:`ncfast.functional.pair_stats`: whether points, directions or both are
            compared.

    >>> points = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0 + 1e-9, 0.0], [2.0, 0.0]]).double()
    >>> known = Known(torch.full((4,), 1e-8).double())
    >>> touching_points(Rows(points, torch.arange(4)), known, ["cdnv"]).tolist()
    [True, False, False, False]
    >>> sum(touching_points(Rows(points, torch.arange(4)), known, ["riesz"]).tolist())  # of three
    2
    """
    found = torch.zeros(rows.count, dtype=torch.bool, device=rows.points.device)
    if {"cosine", *OF_UNITS} & {*kinds}:
        found = torch.cat([~part.directed for part in known_parts(rows, known, ROWS)])
    for of_units in sorted({kind in OF_UNITS for kind in kinds if kind != "cosine"}):
        _find(rows, known, of_units, found)
    return found


def _find(rows: Rows, known: Known, of_units: bool, found: Tensor) -> None:
    """Mark one point of every pair of points, or of directions, that touch."""
    places, reach = _projected(rows, known, of_units)
    order = places[:, 0].argsort()
    step = max(1, CHUNK // max(rows.width, 1))
    for one, other in _candidates(places[order], reach[order]):
        i, j = order[one], order[other]
        for left, right in zip(i.split(step), j.split(step), strict=True):
            # One point of a pair is enough: of many that are equal few pairs are compared.
            unmet = ~(found[left] | found[right])
            left, right = left[unmet], right[unmet]
            if not left.numel():
                continue
            a, b = (_some(rows, known, which) for which in (left, right))
            pairs = PairValues(a, b, (a.rows - b.rows).square().sum(1))
            touch = pairs.one_direction & a.directed & b.directed if of_units else pairs.same
            found[left[touch]] = True


def _some(rows: Rows, known: Known, places: Tensor) -> KnownRows:
    """Return rows at some places, which may be named twice."""
    part = next(rows.some(places).parts(places.numel()))
    return KnownRows(part, known.reach[places], known.center)
