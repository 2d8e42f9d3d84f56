"""Which classes are measured, from which center, and what each of them is by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import functional as F
from ..arrays import as_ids, as_tensor
from ..errors import DataError
from ..geometry import ROWS, Rows, mean_of_rows
from ..shards import is_sharded
from ..statistics import ClassStatistics

__all__ = [
    "CENTERS",
    "center_of",
    "check_head",
    "head_columns",
    "per_class",
    "selected_slots",
    "within_scatter",
]

CENTERS = ("classes", "tokens", "all", "none")


def selected_slots(stats: ClassStatistics, classes: Any) -> Tensor:
    """Return the slots that are present and selected, in class order."""
    present = stats.counts > 0
    if classes is None:
        return present.nonzero()[:, 0]
    ids = as_ids("neural_collapse", "classes", classes, stats.device)
    if int(ids.min()) < 0 or int(ids.max()) >= stats.num_classes:
        raise DataError(
            f"neural_collapse: classes holds ids from {int(ids.min())} to {int(ids.max())}; "
            f"expected ids in [0, {stats.num_classes})"
        )
    slots = stats.slots_of(torch.unique(ids), "classes")
    return slots[present[slots]]


def center_of(stats: ClassStatistics, slots: Tensor, center: str) -> Tensor:
    """Return the [D] float64 vector that class means are measured from."""
    if center not in CENTERS:
        raise ValueError(f"neural_collapse: center is {center!r}; expected one of {CENTERS}")
    if center == "none" or slots.numel() == 0:
        return torch.zeros(stats.dim, dtype=torch.float64, device=stats.device)
    if center == "tokens":
        return mean_of_rows(stats.means, slots, stats.counts[slots])
    if center == "all":
        if stats.classes is not None:
            raise DataError(
                "neural_collapse: center='all' needs the means of every class, but this state "
                f"keeps {stats.classes.numel()} of {stats.num_classes} classes"
            )
        return mean_of_rows(stats.means, (stats.counts > 0).nonzero()[:, 0])
    return mean_of_rows(stats.means, slots)


def check_head(stats: ClassStatistics, head_weight: Any) -> Tensor:
    """Return a head as a tensor, or raise unless it fits the statistics."""
    if is_sharded(head_weight):
        raise TypeError(
            f"neural_collapse: head_weight is a {type(head_weight).__name__} sharded over ranks; "
            "expected a whole tensor: gather it (full_tensor)"
        )
    head_weight = as_tensor("neural_collapse", "head_weight", head_weight)
    shape = (stats.num_classes, stats.dim)
    if tuple(head_weight.shape) != shape or head_weight.device != stats.device:
        raise ValueError(
            f"neural_collapse: head_weight is {tuple(head_weight.shape)} on {head_weight.device}; "
            f"expected {shape} on {stats.device}"
        )
    if not head_weight.is_floating_point():
        raise TypeError(
            f"neural_collapse: head_weight is {head_weight.dtype}; expected a float dtype"
        )
    return head_weight


def per_class(
    stats: ClassStatistics, slots: Tensor, center: Tensor, head_weight: Tensor | None
) -> dict[str, Tensor]:
    """Return variances, norms, and cosines with the head, of the selected classes, in float64."""
    ids = stats.class_ids[slots]
    counts = stats.counts[slots]
    norms = [(points - center).norm(dim=1) for points in Rows(stats.means, slots).parts()]
    result = {
        "class_ids": ids,
        "counts": counts,
        "variances": stats.m2[slots] / counts,
        "norms": torch.cat([*norms, center.new_zeros(0)]),
    }
    if head_weight is not None:
        cosines, lengths = head_columns(head_weight, ids, Rows(stats.means, slots), center)
        result |= {"cosines": cosines, "head_norms": lengths}
    return result


def head_columns(
    head_weight: Tensor, index: Tensor, means: Rows, center: Tensor
) -> tuple[Tensor, Tensor]:
    """Return cosines with the means and norms, [K] float64, of the head's rows at ``index`` [K]."""
    cosines, norms = [center.new_zeros(0)], [center.new_zeros(0)]
    for points, part in zip(means.parts(), index.split(ROWS), strict=True):
        rows = head_weight.detach()[part].double()
        cosines.append(_cosines(F.alignment(rows, points, center)))
        norms.append(rows.norm(dim=1))
    return torch.cat(cosines), torch.cat(norms)


def _cosines(found: Tensor) -> Tensor:
    """Return cosines in [-1, 1]; float64 products of unit rows exceed 1 by a few 2^-53."""
    rounding = found.abs() <= 1 + 1e-12
    return torch.where(rounding, found.clamp(-1, 1), found)


def within_scatter(stats: ClassStatistics, slots: Tensor) -> Tensor | None:
    """Return the [D, D] within-class scatter of exactly these classes, if the state kept it.

    Classes that did not occur add nothing, so only those that did must be the same.
    """
    present = stats.counts > 0
    for name, ids in stats.scatter_ids.items():
        kept = present.nonzero()[:, 0] if ids is None else stats.slots_of(ids, name)
        if torch.equal(kept[present[kept]], slots):
            return stats.scatter[name]
    return None
