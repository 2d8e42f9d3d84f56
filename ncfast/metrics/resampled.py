"""Metrics of repeats, in each of which the classes are drawn again."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..geometry import ROWS, Rows, unit_rows
from ..known_points import KnownRows, PairValues
from ..presets import Preset
from ..statistics import ClassStatistics
from .by_pair import reach_of_rows
from .rounding import rounding_of_means
from .selection import center_of

__all__ = ["Sample", "by_class", "by_direction", "by_pair", "over_pairs"]

# Of |mean|^2 + |center|^2: their difference is rounded at 1e-15 of it, so that what is more gives
# cosines to 1e-9; they counted up to 53 where a drawn center fell on a mean.
AT_CENTER = 1e-13
OF_ROWS = (
    ("nc1w_mean", "cdnv", 1),
    ("nc1w2_mean", "cdnv", 2),
    ("gnc2w_mean", "log_distance_raw", 1),
    ("gnc2w_unit_mean", "log_distance", 1),
)


class Sample:
    """Hold the selected classes, and how often each was drawn in every repeat."""

    def __init__(
        self,
        stats: ClassStatistics,
        head_weight: Tensor | None,
        slots: Tensor,
        center: str,
        conventions: Preset,
    ) -> None:
        self.center, self.conventions = center, conventions
        self.counts, self.m2 = stats.counts[slots].double(), stats.m2[slots]
        self.center_row = center_of(stats, slots, center)
        self.points = Rows(stats.means, slots, self.center_row)
        rounding = rounding_of_means(stats, slots, center)
        self.reach, self.center_reach = rounding.reach, rounding.center
        ids = stats.class_ids[slots]
        self.head = None if head_weight is None else Rows(head_weight, ids)

    @property
    def count(self) -> int:
        return self.counts.numel()

    def shifts(self, drawn: Tensor) -> Tensor:
        """Return [R, D]: how far each repeat's own center lies from the center of all."""
        shares = drawn * self.counts if self.center == "tokens" else drawn
        shifts = torch.zeros(drawn.shape[0], self.points.width, dtype=torch.float64)
        shifts = shifts.to(drawn.device)
        if self.center in ("classes", "tokens"):
            for part, share in zip(self.points.parts(), shares.split(ROWS, 1), strict=True):
                shifts += share @ part
            shifts /= shares.sum(1, keepdim=True)
        return shifts


def _mean_and_deviation(values: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Return [R] means and population standard deviations of [R, K] values, drawn [R, K] times."""
    mean = (values * drawn).sum(1) / drawn.sum(1)
    return mean, ((values - mean[:, None]).square() * drawn).sum(1).div(drawn.sum(1)).sqrt()


def by_class(sample: Sample, drawn: Tensor, shifts: Tensor) -> dict[str, Tensor]:
    """Return [R] values of everything that is a sum over classes, about each repeat's center."""
    count = sample.count
    bessel = math.sqrt(count / (count - 1))
    squares, cosines, directed = [], [], []
    heads = sample.head.parts() if sample.head else iter(())
    for part, reach in zip(sample.points.parts(), sample.reach.split(ROWS), strict=True):
        terms = part.square().sum(1) + shifts.square().sum(1)[:, None]
        square = terms - 2 * shifts @ part.T  # [R, K]
        # Below this it is rounding of the difference: the mean lies at the repeat's center.
        square = torch.where(square > AT_CENTER * terms, square, 0.0)
        squares.append(square)
        directed.append(square.sqrt() > reach + sample.center_reach)
        if sample.head:
            rows = unit_rows(next(heads))
            products = (rows * part).sum(1) - shifts @ rows.T
            cosines.append(products / square.sqrt().masked_fill(~directed[-1], math.inf))
    square = torch.cat(squares, 1)
    within = (drawn * sample.m2).sum(1) / (drawn * sample.counts).sum(1)
    between = (square * drawn).sum(1) / count
    # A mean without a direction has no log norm, and takes the key of its repeat with it.
    logs = square.masked_fill(~torch.cat(directed, 1), 0.0).log() / 2
    lengths = {"plain": square.sqrt(), "squared": square, "log": logs}
    mean, spread = _mean_and_deviation(lengths[sample.conventions.norms], drawn)
    found = {
        "nc1_quotient": within / between,
        "trace_within": within,
        "trace_between": between,
        "norm_mean": mean,
        "norm_cov": spread / mean,
        "log_norm_std": _mean_and_deviation(lengths["log"], drawn)[1] * bessel,
    }
    if sample.head:
        cosine = torch.cat(cosines, 1)
        mean, spread = _mean_and_deviation(cosine, drawn)
        found["nc3_mean"] = mean
        found["nc3_distance"] = _mean_and_deviation((2 - 2 * cosine).clamp(min=0).sqrt(), drawn)[0]
        found["unc3_std"] = spread * bessel
        found["unc3_var"] = (spread * bessel).square()
        found["unc3_cov"] = spread / mean
    return found


def over_pairs(values: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Return [R] means and Bessel stds over pairs of different classes, [K, K] values drawn.

    A pair counts as often as its classes were drawn together; where a value is NaN there is no
    pair, and a class paired with its own copy is none either.
    """
    has = ~torch.isnan(values)
    has.fill_diagonal_(False)
    safe = torch.where(has, values, 0.0)

    def total(matrix: Tensor) -> Tensor:
        return ((drawn @ matrix) * drawn).sum(1) / 2

    pairs = total(has.double())
    mean = total(safe) / pairs
    # About a middle value, or a spread far below the mean would cancel.
    middle = float(safe.sum() / has.sum().clamp(min=1))
    squares = total(torch.where(has, (values - middle).square(), 0.0))
    variance = (squares - pairs * (mean - middle).square()) / (pairs - 1)
    return mean, torch.where(pairs > 1, variance.clamp(min=0).sqrt(), math.nan)


def _squared_distances(rows: Tensor, reach: Tensor) -> Tensor:
    """Return [K, K], NaN where two rows are no further apart than the sum of their errors."""
    # From differences: a Gram form would lose the near pairs, which weigh most.
    apart = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.where(apart > reach[:, None] + reach, apart, math.nan).square()


def by_pair(sample: Sample, drawn: Tensor) -> dict[str, Tensor]:
    """Return [R] values of functions of pairs that no center enters."""
    variances = sample.m2 / sample.counts
    both = (variances[:, None] + variances) / 2
    found: dict[str, Tensor] = {}
    means = torch.cat(list(sample.points.parts()))
    square = _squared_distances(means, sample.reach)
    once, twice = over_pairs(both / square, drawn), over_pairs(both / square.square(), drawn)
    first = once if sample.conventions.cdnv_power == 1 else twice
    found["cdnv_mean"], found["cdnv_std"] = first
    found["cdnv2_mean"], found["cdnv2_std"] = twice
    if sample.head:
        rows = torch.cat(list(sample.head.parts()))
        reach = reach_of_rows(sample.head.points, rows.norm(dim=1))
        pairs = PairValues(KnownRows(rows, reach, 0.0), KnownRows(rows, reach, 0.0))
        for key, kind, power in OF_ROWS:
            found[key] = over_pairs(pairs.of(kind, power, both), drawn)[0]
    return found


def _log_distances(known: KnownRows, cosine: Tensor) -> Tensor:
    """Return [K, K], NaN where a direction is missing or two may be equal."""
    least = (known.angle[:, None] + known.angle).square()
    # Below 1e-13 a squared distance is rounding of the product.
    apart = (square := 2 - 2 * cosine) > least.clamp(min=1e-13)
    apart &= known.directed[:, None] & known.directed
    return -torch.where(apart, square, math.nan).log() / 2


def by_direction(sample: Sample, drawn: Tensor, shifts: Tensor) -> dict[str, Tensor]:
    """Return [R] values of functions of the directions from each repeat's own center."""
    means = torch.cat(list(sample.points.parts()))
    target = -1 / (sample.count - 1)
    rows: dict[str, list[Tensor]] = {}
    log = None
    if not sample.conventions.log_distance_centered:
        bare = KnownRows(means + sample.center_row, sample.reach, 0.0)
        log = PairValues(bare, bare).of("log_distance", 1, sample.reach)
    for times, shift in zip(drawn, shifts, strict=True):
        seen = times.nonzero()[:, 0]
        known = KnownRows(means[seen] - shift, sample.reach[seen], sample.center_reach)
        weights = times[None, seen]
        cosine = known.units @ known.units.T
        mean, std = over_pairs(cosine, weights)
        found = {"interference_mean": mean, "interference_std": std}
        found["equiangularity"] = over_pairs((cosine - target).abs(), weights)[0]
        pairs = _log_distances(known, cosine) if log is None else log[seen][:, seen]
        found["log_distance_mean"], found["log_distance_std"] = over_pairs(pairs, weights)
        for key, value in found.items():
            rows.setdefault(key, []).append(value)
    return {key: torch.cat(values) for key, values in rows.items()}
