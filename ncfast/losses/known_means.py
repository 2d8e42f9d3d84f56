"""What a term divides by: means, rows and pairs that differ by more than their rounding.

The rule is :mod:`ncfast.rounding`'s, as in the metrics: a mean at the center has no direction, two
points or directions that may be equal make no pair. None of them has a gradient there, which would
be the direction of a rounding error, one over its length long.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional as F
from ..geometry import ROWS, Rows, mean_of_rows
from ..known_points import Known, leaders, may_touch
from ..rounding import SINGLE, center_error, mean_errors, row_errors, unit_roundoff
from .class_means import ClassMeans, ClassMoments

__all__ = ["errors_of_head", "errors_of_means", "pair_sums", "without_direction"]


def errors_of_means(
    kept: ClassMeans, moments: ClassMoments, dtype: torch.dtype, calls: Tensor
) -> Tensor:
    """Return [K] float64, the squared errors of class means.

    Args:
        kept: estimated them.
        moments: the means, of any power of two as scale, and what else is known of them.
        dtype: of the features.
        calls: [] how many were made before, each of which rounded what is kept once more.
    """
    means = moments.means.detach()
    unit, own = unit_roundoff(means.dtype), moments.batch_counts.double()
    spread = moments.within.detach() / moments.batch_counts.clamp(min=1)
    steps = own
    if kept.kind != "batch":
        unit = max(unit, unit_roundoff(kept.means.dtype))
        # What was erred k calls ago weighs decay^k, which adds up to what so many calls would.
        most = 3 / (1 - kept.decay**2) if kept.kind == "ema" else float("inf")
        steps = own + (calls + 1).clamp(max=most).to(own.device)
    squares = torch.linalg.vector_norm(means, dim=1).double().square()
    squares = squares + torch.where(spread.isfinite(), spread, 0)  # squares may overflow
    coarse = unit_roundoff(dtype)
    half = coarse if coarse > SINGLE else 0.0
    return mean_errors(squares, moments.counts, unit, half, steps)


def errors_of_head(rows: Tensor) -> Tensor:
    """Return [K] float64, the squared errors of head rows as they are stored."""
    wide = torch.float64 if rows.dtype == torch.float64 else torch.float32
    lengths = torch.linalg.vector_norm(rows.detach(), dim=1, dtype=wide)
    return row_errors(lengths, rows.dtype, rows.shape[1])


def without_direction(
    means: Tensor, center: Tensor, errors: Tensor, weights: Tensor | None
) -> Tensor:
    """Return [K] bool, which means equal the center up to rounding.

    Args:
        means: [K, D].
        center: [D].
        errors: [K], squared, of the means.
        weights: [K], of the means in the center; None for a center that is exact.
    """
    reach = errors.sqrt()
    if weights is not None:
        reach = reach + center_error(errors, weights)
    middle = center.detach().to(means.dtype)
    # A difference is rounded by a share of itself, which the comparison can do without.
    lengths = [(part - middle).norm(dim=1) for part in means.detach().split(ROWS)]
    return torch.cat(lengths).double() <= reach


def pair_sums(
    points: Tensor,
    errors: Tensor,
    kind: str,
    power: int | None = None,
    variances: Tensor | None = None,
    index: Tensor | None = None,
) -> Tensor:
    """Return [6] float64 of :func:`ncfast.functional.pair_stats`, of the pairs that are known.

    Whether there may be others is one number that is read from the device. Where there are, points
    or directions that hang together are laid on one another, which makes them coincident.

    Args:
        points: [V, D], centered at the mean of those visited where the kind is of directions.
        errors: [V], their squared errors.
        kind, power, variances, index: as there, for one kind.
    """
    kinds = (kind, "log_distance_raw") if kind == "cdnv" else (kind,)
    stats, _, _ = F.pair_stats(
        points, variances, "classes", kinds, (power, None)[: len(kinds)], index=index
    )
    places = torch.arange(len(points), device=points.device) if index is None else index
    if places.numel() < 2:
        return stats[0]
    errors, middle, of_center = errors[places], None, errors.new_zeros(())
    if kind not in ("cdnv", "log_distance_raw"):
        middle, of_center = mean_of_rows(points, places), center_error(errors)
    rows, known = Rows(points, places, middle), Known(errors.sqrt(), of_center)
    # The greatest value of a kind, as the logarithm of one over a distance: of riesz by its power.
    by = power or points.shape[1] - 2 if kind == "riesz" else 1
    if not may_touch(rows, known, {name: stats[i, 4] / by for i, name in enumerate(kinds)}):
        return stats[0]
    apart = _laid_together(rows, known, kind)
    own = None if variances is None else variances.index_select(0, places)
    stats, _, _ = F.pair_stats(apart, own, "none", (kind,), (power,))
    return stats[0]


def _laid_together(rows: Rows, known: Known, kind: str) -> Tensor:
    """Return points, or directions, [K, D], equal where they hang together, with gradients."""
    points = rows.points.index_select(0, rows.index)
    points = points if points.dtype == torch.float64 else points.float()
    if rows.center is not None:
        points = points - points.mean(0)
        reach = (known.reach + known.center).to(points.dtype)
        norms = torch.linalg.vector_norm(points, dim=1)
        directed = norms.detach() > reach
        points = points / torch.where(directed, norms, 1)[:, None]
        points = torch.where(directed[:, None], points, 0)
    if kind == "cosine":
        return points
    values = points.detach()
    return values[leaders(rows, known, kind)] + (points - values)
