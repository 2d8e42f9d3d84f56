"""Class ids that a state keeps, and the compact slots they stand on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import functional as F
from ..arrays import as_ids
from ..errors import DataError

__all__ = ["checked_ids", "slot_table", "slots_of_labels"]


def checked_ids(name: str, ids: Any, num_classes: int) -> Tensor:
    """Return sorted distinct class ids, or raise."""
    tensor = as_ids("ClassStatistics", name, ids, "cpu")
    if int(tensor.min()) < 0 or int(tensor.max()) >= num_classes:
        raise DataError(
            f"ClassStatistics: {name} holds ids from {int(tensor.min())} to {int(tensor.max())}; "
            f"expected ids in [0, {num_classes})"
        )
    return torch.unique(tensor)


def slot_table(ids: Tensor, num_classes: int) -> Tensor:
    """Return [V] int64: a class's position in ``ids``, or -100.

    >>> slot_table(torch.tensor([1, 3]), 4).tolist()
    [-100, 0, -100, 1]
    """
    table = torch.full((num_classes,), F.IGNORE_INDEX, dtype=torch.int64, device=ids.device)
    table[ids] = torch.arange(ids.numel(), device=ids.device)
    return table


def slots_of_labels(table: Tensor | None, y: Tensor, num_classes: int) -> Tensor:
    """Return the slot of every label, -100 for classes the table leaves out."""
    if table is None:
        return y
    inside = (y >= 0) & (y < num_classes)
    ignored = y == F.IGNORE_INDEX
    if table.device.type == "cpu" and not bool((inside | ignored).all()):
        i = int((~(inside | ignored)).nonzero()[0])
        raise DataError(
            f"ClassStatistics.update: y[{i}] is {int(y[i])}; expected a class in "
            f"[0, {num_classes}) or {F.IGNORE_INDEX} for a token to ignore"
        )
    # Elsewhere a look would stop the device: such a label becomes one that the op rejects.
    rejected = torch.where(ignored, F.IGNORE_INDEX, num_classes)
    return torch.where(inside, table[y.clamp(0, num_classes - 1)], rejected)
