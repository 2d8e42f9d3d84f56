"""Functions of pairs a < b of points, by differences, one row of pairs at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import DataError
from .checks import check_finite, check_index

# Numbered as in csrc/common/pair_functions.h.
KINDS = ("cdnv", "log_distance", "cosine", "log_distance_raw", "riesz")
CENTRED = frozenset({"log_distance", "cosine", "riesz"})  # of unit vectors from the center
# Values of these kinds are logarithms of what is added up, and so are their sums.
LOGARITHMIC = frozenset({"riesz"})
LARGEST_POWER = 2**24  # of riesz: float32 holds every integer up to it


def check_values(
    points: Tensor, variances: Tensor | None, center: Tensor, index: Tensor | None
) -> Tensor | slice:
    """Return what to index rows with, or raise at a value that cannot be used."""
    where = check_index("pair_stats", index, points.shape[0])
    visited = torch.zeros(points.shape[0], dtype=torch.bool, device=points.device)
    visited[where] = True
    if not torch.isfinite(center).all():
        d = int((~torch.isfinite(center)).nonzero()[0])
        value = f"{float(center[d]):g}"
        raise DataError(f"pair_stats: center[{d}] is {value}; expected finite values")
    check_finite("pair_stats", points, visited, "points")
    if variances is not None:
        bad = visited & ~(torch.isfinite(variances) & (variances >= 0))
        if bad.any():
            v = int(bad.nonzero()[0])
            raise DataError(
                f"pair_stats: variances[{v}] is {float(variances[v]):g}; "
                "expected a finite variance of at least 0"
            )
    return where


def check_edges(edges: Tensor) -> None:
    """Raise unless every kind's bins are finite, ascending and of one width."""
    for p, row in enumerate(edges.tolist()):
        width = (row[-1] - row[0]) / (len(row) - 1)
        even = all(abs(e - row[0] - i * width) <= 1e-3 * width for i, e in enumerate(row))
        if not (math.isfinite(width) and width > 0 and even):
            raise DataError(
                f"pair_stats: edges[{p}] goes from {row[0]:g} to {row[-1]:g}; "
                "expected finite ascending edges of bins of one width"
            )


def _units(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit vectors, zero for a zero vector, and norms."""
    norms = points.norm(dim=1)
    return points / torch.where(norms > 0, norms, 1)[:, None], norms


class _Row:
    """Hold point a with some others b: squared distances, of points and of unit vectors."""

    def __init__(self, rows: Tensor, units: Tensor, norms: Tensor, a: int, others: Tensor) -> None:
        self.difference, self.unit_difference = rows[a] - rows[others], units[a] - units[others]
        self.square, self.unit_square = (
            self.difference.square().sum(1),
            self.unit_difference.square().sum(1),
        )
        self.cosine = (units[a] * units[others]).sum(1).clamp(-1, 1)
        self.defined = (norms[a] > 0) & (norms[others] > 0)

    def value(self, kind: str, power: int, variance: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return values and where there is one; a pair's variance is (s_a + s_b)/2."""
        if kind == "cosine":
            return self.cosine, self.defined
        square = self.unit_square if kind in CENTRED else self.square
        apart = square > 0
        if kind in CENTRED:
            apart = apart & self.defined
        safe = torch.where(apart, square, 1)
        if variance is not None and kind == "cdnv":
            return variance / safe**power, apart
        return -0.5 * power * safe.log(), apart


def _histogram(values: Tensor, edges: Tensor) -> Tensor:
    low, high, count = edges[0].to(values.dtype), edges[-1].to(values.dtype), len(edges) - 1
    scale = (count / (edges[-1] - edges[0])).to(values.dtype)
    inside = values[(values >= low) & (values <= high)]
    bins = ((inside - low) * scale).long().clamp(max=count - 1)
    return torch.bincount(bins, minlength=count)


def pair_stats(
    points: Tensor,
    variances: Tensor | None,
    center: Tensor,
    index: Tensor | None,
    edges: Tensor | None,
    kinds: Sequence[int],
    powers: Sequence[int],
    targets: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return per kind count, sum, squares, least, greatest, deviation; histogram; coincident.

    Of riesz all but the count and the deviation are logarithms, as its values are.
    """
    where = check_values(points, variances, center, index)
    if edges is not None:
        check_edges(edges)
    rows = points[where].to(center.dtype)
    spread = None if variances is None else variances[where].to(center.dtype)
    units, norms = _units(rows - center)
    functions, bins = len(kinds), 0 if edges is None else edges.shape[1] - 1
    stats = points.new_zeros((functions, 6), dtype=torch.float64)
    stats[:, 3], stats[:, 4] = math.inf, -math.inf
    logarithmic = [p for p, number in enumerate(kinds) if KINDS[number] in LOGARITHMIC]
    stats[logarithmic, 1:3] = -math.inf
    histogram = points.new_zeros((functions, bins), dtype=torch.int64)
    coincident = points.new_zeros(functions, dtype=torch.int64)
    numbers = torch.arange(len(rows), device=points.device)
    for a in range(len(rows) - 1):
        others = numbers[a + 1 :]
        row = _Row(rows, units, norms, a, others)
        both = None if spread is None else (spread[a] + spread[others]) / 2
        for p, (number, power) in enumerate(zip(kinds, powers, strict=True)):
            values, has = row.value(KINDS[number], power, both)
            coincident[p] += (~has).sum()
            kept = (values if KINDS[number] == "cosine" else values[has]).double()
            if len(kept):
                stats[p, 0] += len(kept)
                stats[p, 1:3] = _add(stats[p, 1:3], kept, p in logarithmic)
                stats[p, 3] = torch.minimum(stats[p, 3], kept.min())
                stats[p, 4] = torch.maximum(stats[p, 4], kept.max())
                stats[p, 5] += (kept - targets[p]).abs().sum()
            if edges is not None:
                histogram[p] += _histogram(kept.to(values.dtype), edges[p])
    stats[:, 3:5] = torch.where(stats[:, :1] > 0, stats[:, 3:5], math.nan)
    return stats, histogram, coincident


def _add(sums: Tensor, values: Tensor, logarithmic: bool) -> Tensor:
    """Return the sum and the sum of squares with some values more, or the logarithms of both."""
    if not logarithmic:
        return sums + torch.stack([values.sum(), values @ values])
    return torch.logaddexp(sums, torch.stack([values, 2 * values]).logsumexp(1))


def _derivatives(
    row: _Row, kind: str, power: int, variance: Tensor | None, grad: Tensor, stats: Tensor
) -> Tensor:
    """Return dL/dvalue of each pair, zero where it has none; by the stats of the kind."""
    value, has = row.value(kind, power, variance)
    by_sum, by_squares = grad[1:3].to(value.dtype)
    derivative = by_sum + 2 * by_squares * value
    if kind in LOGARITHMIC:  # of log sum exp v and of log sum exp 2 v
        share, of_squares = (value - stats[1]).exp(), (2 * value - stats[2]).exp()
        derivative = (by_sum * share + 2 * by_squares * of_squares).to(value.dtype)
    return torch.where(has, derivative, 0)


def pair_stats_backward(
    grad: Tensor,
    points: Tensor,
    variances: Tensor | None,
    center: Tensor,
    index: Tensor | None,
    stats: Tensor,
    kinds: Sequence[int],
    powers: Sequence[int],
    needs_points: bool,
    needs_variances: bool,
    needs_center: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of sum and sum of squares, row by row over all other points.

    With s = |a - b|^2: ds/da = 2 (a - b). With u = |a^ - b^|^2 = 2 - 2 cos: du/da =
    2 ((a^ - b^) - u/2 a^) / |a|, whose terms do not cancel where b is near a.
    """
    where = check_values(points, variances, center, index)
    rows = points[where].to(center.dtype)
    spread = None if variances is None else variances[where].to(center.dtype)
    units, norms = _units(rows - center)
    numbers = torch.arange(len(rows), device=points.device)
    raw, unit = torch.zeros_like(rows), torch.zeros_like(rows)
    by_variance = rows.new_zeros(len(rows), dtype=torch.float64)
    for a in range(len(rows)):
        others = numbers[numbers != a]
        row = _Row(rows, units, norms, a, others)
        both = None if spread is None else (spread[a] + spread[others]) / 2
        for p, (number, power) in enumerate(zip(kinds, powers, strict=True)):
            kind = KINDS[number]
            derivative = _derivatives(row, kind, power, both, grad[p], stats=stats[p])
            square = row.unit_square if kind in CENTRED else row.square
            safe = torch.where(square > 0, square, 1)
            if both is not None and kind == "cdnv":
                by_variance[a] += (derivative / (2 * safe**power)).sum()
                raw[a] += (-derivative * both * power / safe ** (power + 1)) @ row.difference * 2
            elif kind == "log_distance_raw":
                raw[a] += (-derivative / safe) @ row.difference
            elif norms[a] > 0:
                by_square = (
                    -derivative / 2 if kind == "cosine" else -derivative * power / (2 * safe)
                )
                unit[a] += by_square @ row.unit_difference * 2 / norms[a]
                unit[a] -= (by_square * square).sum() * units[a] / norms[a]
    width = points.shape[1]
    grad_points = points.new_zeros(points.shape if needs_points else (0, width))
    if needs_points:
        grad_points[where] = (raw + unit).to(points.dtype)
    grad_variances = by_variance.new_zeros(points.shape[0] if needs_variances else 0)
    if needs_variances:
        grad_variances[where] = by_variance
    grad_center = -unit.sum(0) if needs_center else center.new_zeros(0)
    return grad_points, grad_variances, grad_center
