"""What a term divides by: means, rows and pairs that differ by more than their rounding.

The rule is :mod:`ncfast.rounding`'s, as in the metrics: a mean at the center has no direction, two
points or directions that may be equal make no pair. None of them has a gradient there, which would
be the direction of a rounding error, one over its length long.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional as F
from ..functional.pair_stats import LOGARITHMIC
from ..geometry import ROWS, Rows, mean_of_rows
from ..known_points import Known, may_touch
from ..near_points import touching_points
from ..rounding import SINGLE, center_error, mean_errors, row_errors, unit_roundoff
from .class_means import ClassMeans, ClassMoments
from .near_pairs import PairsOfSome, sums_of_some

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
        # A half-life of 1e16 calls and more is a decay of exactly 1: none.
        most = 3 / (1 - kept.decay**2) if kept.decay < 1 else float("inf")
        steps = own + (calls + 1).to(own).clamp(max=most)
    squares = torch.linalg.vector_norm(means, dim=1).double().square()
    squares = squares + torch.where(spread.isfinite(), spread, 0)  # squares may overflow
    coarse = unit_roundoff(dtype)
    half = coarse if coarse > SINGLE else 0.0
    return mean_errors(squares, moments.counts, unit, half, steps)


def errors_of_head(rows: Tensor, scale: Tensor) -> Tensor:
    """Return [K] float64, the squared errors of head rows that were stored and then scaled."""
    wide = torch.float64 if rows.dtype == torch.float64 else torch.float32
    lengths = torch.linalg.vector_norm(rows.detach(), dim=1, dtype=wide)
    stored = lengths.double() / scale.double()  # the least step of a dtype is of these
    return row_errors(stored, rows.dtype, rows.shape[1]) * scale.double().square()


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
    center_row = center.detach().to(means.dtype)
    # A difference is rounded by a share of itself, which the comparison can do without.
    lengths = [(part - center_row).norm(dim=1) for part in means.detach().split(ROWS)]
    return torch.cat(lengths).double() <= reach


def pair_sums(
    points: Tensor,
    errors: Tensor,
    kind: str,
    power: int | None = None,
    variances: Tensor | None = None,
    index: Tensor | None = None,
) -> Tensor:
    """Return [3] float64, pairs that are known, sum, and of cosine sum of squares, as pair_stats.

    Whether there may be others is one number that is read from the device. Where there are, points
    that touch another are left to :mod:`ncfast.losses.near_pairs`, which reads it once or twice a
    tile; where there are none, these are the bits of :func:`ncfast.functional.pair_stats`.

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
        return stats[0, :3]
    errors, center_row, of_center = errors[places], None, errors.new_zeros(())
    if kind not in ("cdnv", "log_distance_raw"):
        center_row, of_center = mean_of_rows(points, places), center_error(errors)
    rows, known = Rows(points, places, center_row), Known(errors.sqrt(), of_center)
    # The greatest value of a kind, as the logarithm of one over a distance: of riesz by its power.
    by = power or (points.shape[1] - 2 if kind == "riesz" else 1)
    nearest = {k: stats[i, 4] / (by if k == "riesz" else 1) for i, k in enumerate(kinds)}
    if not may_touch(rows, known, nearest):
        return stats[0, :3]
    if kind == "cosine":
        return F.pair_stats(_directions(rows, known), None, "none", (kind,))[0][0, :3]
    own = points.index_select(0, places)
    own = own if own.dtype == torch.float64 else own.float()
    spread = None if variances is None else variances.index_select(0, places)
    found = _of_pairs_apart(own, spread, known, kind, by)
    return stats[0, :3] if found is None else found


def _of_pairs_apart(
    points: Tensor, variances: Tensor | None, known: Known, kind: str, power: int
) -> Tensor | None:
    """Return :func:`pair_sums` of float points without pairs that touch, None if none does.

    Points that touch none go through the fused op; pairs of the others are visited one by one.
    """
    places = torch.arange(len(points), device=points.device)
    # Distances change with no center, and lose least about this one.
    center_row = mean_of_rows(points, places)
    rows = Rows(points, places, center_row)
    touching = touching_points(rows, known, (kind,))
    if not bool(touching.any()):
        return None
    pairs, total = sums_of_some(PairsOfSome(rows, known, touching, kind, power), points, variances)
    apart = places[~touching]
    if apart.numel() > 1:
        mean = points.mean(0)
        center = center_row.to(points.dtype) + (mean - mean.detach())
        stats, _, _ = F.pair_stats(points, variances, center, (kind,), (power,), index=apart)
        pairs = pairs + stats[0, 0].detach()
        of_both = torch.logaddexp if kind in LOGARITHMIC else torch.add
        total = of_both(total, stats[0, 1])
    return torch.stack([pairs, total, torch.zeros_like(total)])


def _directions(rows: Rows, known: Known) -> Tensor:
    """Return directions [K, D], zero where there is none, with gradients."""
    points = rows.points.index_select(0, rows.index)
    points = points if points.dtype == torch.float64 else points.float()
    points = points - points.mean(0)
    reach = (known.reach + known.center).to(points.dtype)
    norms = torch.linalg.vector_norm(points, dim=1)
    directed = norms.detach() > reach
    points = points / torch.where(directed, norms, 1)[:, None]
    return torch.where(directed[:, None], points, 0)
