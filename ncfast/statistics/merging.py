"""Adding what several states have seen: two states of one process, or one per rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import functional as F
from ..errors import DataError

if TYPE_CHECKING:
    from .class_statistics import ClassStatistics

__all__ = ["all_reduce", "merge"]

_ROWS = 4096  # rows handled in float64 at a time: 24 MiB at D = 768


def merge(own: ClassStatistics, other: ClassStatistics) -> None:
    """Add to a state what another of the same configuration has seen, by Chan's formula."""
    _require_same_configuration(own, other)
    gaps = {name: torch.zeros_like(total) for name, total in own.scatter.items()}
    for begin in range(0, own.counts.numel(), _ROWS):
        rows = slice(begin, begin + _ROWS)
        n_a, n_b = own.counts[rows].double(), other.counts[rows].double()
        total = (n_a + n_b).clamp(min=1)
        gap = other.means[rows].double() - own.means[rows].double()
        weights = n_a * n_b / total
        _add_gaps(own, gaps, gap, weights, begin)
        moved = own.means[rows].double() + gap * (n_b / total)[:, None]
        own.means[rows] = moved.to(own.dtype)
        own.m2[rows] += other.m2[rows] + gap.square().sum(1) * weights
        if own.diagonal_m2 is not None and other.diagonal_m2 is not None:
            own.diagonal_m2[rows] += other.diagonal_m2[rows] + gap.square() * weights[:, None]
    for name, total in own.scatter.items():
        total += other.scatter[name] + gaps[name]
    own.counts += other.counts
    own._tally += other._tally
    own.feature_roundoff = max(own.feature_roundoff, other.feature_roundoff)


def _require_same_configuration(own: ClassStatistics, other: ClassStatistics) -> None:
    mine, theirs = own._configuration(), other._configuration()
    for key, value in mine.items():
        if theirs[key] != value:
            raise DataError(
                f"ClassStatistics.merge: the other state has {key} {theirs[key]}; expected {value}"
            )
    pairs = [(own.classes, other.classes)]
    pairs += [(ids, other.scatter_ids[name]) for name, ids in own.scatter_ids.items()]
    for my_ids, their_ids in pairs:
        if my_ids is None or their_ids is None:
            same = my_ids is their_ids
        else:
            same = torch.equal(my_ids, their_ids)
        if not same:
            raise DataError("ClassStatistics.merge: the other state keeps other classes")


def _add_gaps(
    state: ClassStatistics, scatters: dict[str, Tensor], gap: Tensor, weights: Tensor, begin: int
) -> None:
    """Add sum w gap gap^T of slots [begin, begin + len) to every scatter that covers them."""
    for name, ids in state.scatter_ids.items():
        index = None
        if ids is not None:
            slots = state.slots_of(ids, name) - begin
            index = slots[(slots >= 0) & (slots < gap.shape[0])]
        chosen = weights if index is None else weights[index]
        scatters[name] += F.between_class_scatter(gap, chosen, "none", index)


def all_reduce(state: ClassStatistics, group: Any) -> None:
    """Replace the state of every rank by the sum over ranks."""
    from torch import distributed

    local_counts, local_means = state.counts.clone(), state.means.clone()
    distributed.all_reduce(state.counts, group=group)
    share = local_counts.double() / state.counts.clamp(min=1).double()
    state.means *= share.to(state.dtype)[:, None]
    distributed.all_reduce(state.means, group=group)
    # Spreads are taken about the mean as it was rounded, so rounding enters squared.
    for begin in range(0, state.counts.numel(), _ROWS):
        rows = slice(begin, begin + _ROWS)
        gap = local_means[rows].double() - state.means[rows].double()
        weights = local_counts[rows].double()
        _add_gaps(state, state.scatter, gap, weights, begin)
        state.m2[rows] += gap.square().sum(1) * weights
        if state.diagonal_m2 is not None:
            state.diagonal_m2[rows] += gap.square() * weights[:, None]
    distributed.all_reduce(state.m2, group=group)
    if state.diagonal_m2 is not None:
        distributed.all_reduce(state.diagonal_m2, group=group)
    for name in state.scatter:
        distributed.all_reduce(state.scatter[name], group=group)
    distributed.all_reduce(state._tally, group=group)
