"""Scatters of subsets of the kept classes: they grow with every batch, beside the pooled one."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional as F
from .state import State

__all__ = ["add_batch", "remember"]


def remember(state: State) -> dict[str, tuple[Tensor, Tensor]]:
    """Copy the counts and means of every subset, which :func:`add_batch` needs as they were."""
    known = {}
    for name in state._scatter_slots:
        ids = state.scatter_ids[name]
        assert ids is not None
        slots = state.slots_of(ids, name)
        known[name] = state.counts[slots], state.means[slots]
    return known


def add_batch(state: State, before: dict[str, tuple[Tensor, Tensor]], x: Tensor, y: Tensor) -> None:
    """Grow every subset's scatter by a batch that the state has accepted."""
    for name, (counts, means) in before.items():
        labels = torch.where(y >= 0, state._scatter_slots[name][y.clamp(min=0)], F.IGNORE_INDEX)
        rows = (labels != F.IGNORE_INDEX).nonzero()[:, 0]
        if rows.numel():
            spread = torch.zeros_like(counts, dtype=torch.float64)
            F.accumulate_class_moments_(
                counts, means, spread, state.scatter[name], x[rows], y=labels[rows]
            )
