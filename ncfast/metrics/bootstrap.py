"""Intervals for metrics by drawing classes again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..presets import preset as _preset
from ..statistics import ClassStatistics
from .resampled import Sample, by_class, by_direction, by_pair
from .selection import check_head, selected_slots

__all__ = ["PAIRWISE_LIMIT", "bootstrap_intervals", "bootstrap_values", "intervals_of"]

PAIRWISE_LIMIT = 1024  # classes up to which pairs are drawn as well: 8 MiB per [K, K] of float64
_CELLS = 1 << 22  # float64 values per block of repeats: 32 MiB


def _draws(count: int, repeats: int, seed: int, device: torch.device) -> Iterator[Tensor]:
    """Yield [R, K] float64, how often each class was drawn in each repeat of a block."""
    generator = torch.Generator().manual_seed(seed)
    block = max(1, _CELLS // count)
    for begin in range(0, repeats, block):
        size = min(block, repeats - begin)
        drawn = torch.randint(0, count, (size, count), generator=generator)
        times = torch.stack([torch.bincount(row, minlength=count) for row in drawn])
        yield times.double().to(device)


def bootstrap_intervals(
    stats: ClassStatistics,
    head_weight: Tensor | None = None,
    classes: Any = None,
    center: str = "classes",
    preset: str = "ncfast",
    repeats: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    r"""Compute percentile bootstrap intervals of metrics over classes.

    The K measured classes are drawn K times with replacement, and every metric is computed of the
    draw, about the draw's own center. The interval spans the central ``level`` of the repeats: what
    the metric would do had other classes of the same kind been measured. It says nothing of how
    well the tokens determine the class means.

    Args:
        stats, head_weight, classes, center, preset: as in :func:`neural_collapse`.
        repeats: how often to draw.
        level: of the interval, in (0, 1).
        seed: of the draws; the same seed gives the same intervals.

    Returns:
        key -> (low, high). Sums over classes always (traces, nc1_quotient, norm_*, log_norm_std,
        nc3_*, unc3_*), functions of pairs (cdnv*, interference_*, equiangularity, log_distance_*,
        nc1w*, gnc2w*) up to 1,024 classes. A class drawn twice makes no pair with itself.
        What needs covariances (nc1_pinv, nc1_svd, etf_error, self_duality_error) is left out, and
        so is a key that is undefined in a repeat. Empty below three classes.

    Raises:
        ValueError: ``repeats`` or ``level`` is out of range, or as in :func:`neural_collapse`.
        ncfast.DataError: As in :func:`neural_collapse`.

    Source: Efron (1979); percentile intervals.

    >>> import torch
    >>> stats = ClassStatistics(6, 3)
    >>> stats.update(torch.randn(60, 3), torch.arange(60) % 6)
    >>> low, high = bootstrap_intervals(stats)["trace_between"]
    >>> low < high
    True
    """
    if repeats < 2 or not 0 < level < 1:
        raise ValueError(
            f"bootstrap_intervals: repeats is {repeats} and level is {level}; "
            "expected at least 2 and a level between 0 and 1"
        )
    values = bootstrap_values(
        stats, head_weight, classes, center, preset=preset, repeats=repeats, seed=seed
    )
    return intervals_of(values, level)


def bootstrap_values(
    stats: ClassStatistics,
    head_weight: Tensor | None,
    classes: Any,
    center: str,
    preset: str,
    repeats: int,
    seed: int,
    part: tuple[int, int] = (0, 1),
) -> dict[str, Tensor]:
    """Return key -> [r] values of the repeats whose intervals :func:`bootstrap_intervals` returns.

    ``part``: (m, n) for every n-th repeat of a block from the m-th on, which n processes share.
    """
    conventions, (first, step) = _preset(preset), part
    slots = selected_slots(stats, classes)
    if head_weight is not None:
        head_weight = check_head(stats, head_weight)
    sample = Sample(stats, head_weight, slots, center, conventions)
    if sample.count < 3:
        return {}
    rows: dict[str, list[Tensor]] = {}
    for drawn in _draws(sample.count, repeats, seed, stats.device):
        drawn = drawn[first::step]
        if not len(drawn):
            continue
        shifts = sample.shifts(drawn)
        found = by_class(sample, drawn, shifts)
        if sample.count <= PAIRWISE_LIMIT:
            found |= by_pair(sample, drawn) | by_direction(sample, drawn, shifts)
        for key, values in found.items():
            rows.setdefault(key, []).append(values)
    return {key: torch.cat(values) for key, values in rows.items()}


def intervals_of(samples: Mapping[str, Tensor], level: float) -> dict[str, tuple[float, float]]:
    """Return the central ``level`` of the values of each key, where all are finite."""
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    intervals = {}
    for key, values in samples.items():
        if bool(torch.isfinite(values).all()):
            low, high = values.quantile(ends.to(values.device)).tolist()
            intervals[key] = (low, high)
    return intervals
