"""Sums over the pairs of points that touch others, with gradients, a tile at a time in float64.

The kernels of :func:`ncfast.functional.pair_stats` visit every pair of the rows they are given and
know of no errors. Here each pair is asked, before a function is taken of it: one that rounding
explains has no value, and no gradient, while others of the same points have both.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..functional.pair_stats import LOGARITHMIC
from ..geometry import ROWS, Rows
from ..known_points import (
    NEAR,
    OF_UNITS,
    Known,
    KnownTile,
    PairValues,
    differences,
    known_parts,
    tiles_with,
)

__all__ = ["PairsOfSome", "sums_of_some"]


class PairsOfSome(NamedTuple):
    """Name pairs of K rows: those that hold one of some rows, or two, each once."""

    rows: Rows  # the points and their center, the mean of them all
    known: Known  # how well they are known
    some: Tensor  # [K] bool
    # kind, power: of :func:`ncfast.functional.pair_stats`; no cosine
    kind: str
    power: int


def sums_of_some(pairs: PairsOfSome, points: Tensor, variances: Tensor | None) -> Tensor:
    """Return [2] float64, how many of the pairs have a value and the sum, as pair_stats forms it.

    Args:
        pairs: which.
        points: [K, D], what ``pairs.rows`` are of, for gradients.
        variances: [K], for cdnv.
    """
    return _SumsOfSome.apply(points, variances, pairs)


class _SumsOfSome(torch.autograd.Function):
    """Form gradients with the sums: autograd would keep every tile."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, variances: Tensor | None, pairs: PairsOfSome) -> Tensor:
        sums = _Sums(pairs, variances)
        for tile in tiles_with(pairs.rows, pairs.known, pairs.some):
            sums.add(tile)
        derivatives, spread = sums.derivatives(), sums.by_variance
        own = None if variances is None else spread.to(variances.dtype)
        ctx.save_for_backward(derivatives.to(points.dtype), own)
        return torch.stack([sums.count, sums.total])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        derivatives, spread = ctx.saved_tensors
        by = grad[1]
        return derivatives * by.to(derivatives.dtype), None if spread is None else spread * by, None


class _Sums:
    """Add up values, and derivatives of their sum: of riesz both are logarithms."""

    def __init__(self, pairs: PairsOfSome, variances: Tensor | None) -> None:
        self._pairs, rows = pairs, pairs.rows
        self._variances = None if variances is None else variances.double()
        self._logs = pairs.kind in LOGARITHMIC
        zero = pairs.known.reach.new_zeros(())
        self.count, self.total = zero, zero - torch.inf if self._logs else zero
        self._by_row = zero.new_zeros(rows.count, rows.width)
        self.by_variance = zero.new_zeros(rows.count)

    def add(self, tile: KnownTile) -> None:
        """Add those pairs of a tile that have a value."""
        pairs, power = PairValues(tile.a, tile.b), self._pairs.power
        both = tile.a.rows.new_zeros(())
        if self._variances is not None:
            both = (self._variances[tile.left, None] + self._variances[tile.right]) / 2
        values = pairs.of(self._pairs.kind, power, both)
        has = tile.once & ~values.isnan()
        if not bool(has.any()):
            return
        self.count = self.count + has.sum()
        square = pairs.unit_square if self._pairs.kind in OF_UNITS else pairs.square
        square = torch.where(has, square, 1)
        if self._pairs.kind == "cdnv":
            share = torch.where(has, 1 / (2 * square**power), 0)
            self.by_variance[tile.left] += share.sum(1)
            self.by_variance[tile.right] += share.sum(0)
            derivatives = -power * both / square ** (power + 1)
        else:
            derivatives = -power / 2 / square
        derivatives = self._added(values, has) * derivatives
        self._add_to_rows(tile, torch.where(has, derivatives, 0), square)

    def _added(self, values: Tensor, has: Tensor) -> Tensor | int:
        """Add values, and return the derivative of the sum by each."""
        if not self._logs:
            self.total = self.total + torch.where(has, values, 0).sum()
            return 1
        values = torch.where(has, values, -torch.inf)
        total = torch.logaddexp(self.total, values.flatten().logsumexp(0))
        self._by_row *= (self.total - total).exp()  # each energy's share of what is there now
        self.total = total
        return (values - total).exp()

    def _add_to_rows(self, tile: KnownTile, derivatives: Tensor, square: Tensor) -> None:
        """Add to the rows what derivatives by squared distances [n, m] give: 2 (x - y) each."""
        units = self._pairs.kind in OF_UNITS
        x, y = (tile.a.units, tile.b.units) if units else (tile.a.rows, tile.b.rows)
        lengths = x.square().sum(1)[:, None] + y.square().sum(1)
        near = (square < NEAR * lengths) & (derivatives != 0)
        far = derivatives.masked_fill(near, 0)
        self._by_row[tile.left] += 2 * (far.sum(1)[:, None] * x - far @ y)
        self._by_row[tile.right] += 2 * (far.sum(0)[:, None] * y - far.T @ x)
        for i, j, difference in differences(x, y, near):  # sums of rows would cancel
            gradient = 2 * derivatives[i, j, None] * difference
            self._by_row.index_add_(0, tile.left[i], gradient)
            self._by_row.index_add_(0, tile.right[j], -gradient)

    def derivatives(self) -> Tensor:
        """Return [K, D] float64, the gradient of the sum to the points."""
        if self._pairs.kind not in OF_UNITS:
            return self._by_row
        # Of u = m / |m|: (g - (g u) u) / |m|; what has no direction has no gradient.
        parts = known_parts(self._pairs.rows, self._pairs.known, ROWS)
        for part, derivative in zip(parts, self._by_row.split(ROWS), strict=True):
            derivative -= (derivative * part.units).sum(1, keepdim=True) * part.units
            derivative /= torch.where(part.directed, part.norms, torch.inf)[:, None]
        return self._by_row - self._by_row.mean(0)  # through the center
