"""Adding what several states have seen: two states of one process, or one per rank."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor

from .. import functional as F
from ..errors import DataError
from .state import State

__all__ = ["all_reduce", "merge"]

_ROWS = 4096  # rows handled in float64 at a time: 24 MiB at D = 768


def merge(own: State, other: State) -> None:
    """Add to a state what another of the same configuration has seen, by Chan's formula."""
    _require_same_configuration(own, other)
    own._keep()
    increments = {name: torch.zeros_like(total) for name, total in own.scatter.items()}
    for begin in range(0, own.counts.numel(), _ROWS):
        rows = slice(begin, begin + _ROWS)
        n_a, n_b = own.counts[rows].double(), other.counts[rows].double()
        total = (n_a + n_b).clamp(min=1)
        difference = other.means[rows].double() - own.means[rows].double()
        weights = n_a * n_b / total
        _add_differences(own, increments, difference, weights, begin)
        moved = own.means[rows].double() + difference * (n_b / total)[:, None]
        own.means[rows] = moved.to(own.dtype)
        own.m2[rows] += other.m2[rows] + difference.square().sum(1) * weights
        if own.diagonal_m2 is not None and other.diagonal_m2 is not None:
            own.diagonal_m2[rows] += (
                other.diagonal_m2[rows] + difference.square() * weights[:, None]
            )
    for name, total in own.scatter.items():
        total += other.scatter[name] + increments[name]
    own.counts += other.counts
    own._tally += other._tally
    own.feature_roundoff = max(own.feature_roundoff, other.feature_roundoff)
    for state in (own, other):
        if state._storage is not None:
            state._storage.release()  # all rows are mapped now


def _require_same_configuration(own: State, other: State) -> None:
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


def _add_differences(
    state: State, scatters: dict[str, Tensor], difference: Tensor, weights: Tensor, begin: int
) -> None:
    """Add sum w gap gap^T of slots [begin, begin + len) to every scatter that covers them."""
    for name, ids in state.scatter_ids.items():
        index = None
        if ids is not None:
            slots = state.slots_of(ids, name) - begin
            index = slots[(slots >= 0) & (slots < difference.shape[0])]
        chosen = weights if index is None else weights[index]
        scatters[name] += F.between_class_scatter(difference, chosen, "none", index)


def all_reduce(state: State, group: Any) -> None:
    """Replace the state of every rank by the sum over ranks.

    Sums are taken of copies, which enter the state once all have arrived: when a peer dies in
    between, this state is what it was. Where the ranks differ in what they keep, all raise a
    DataError.
    """
    from torch import distributed

    roundoff = _agreed_roundoff(state, group)
    state._leave_inference_mode()
    total = {name: tensor.clone() for name, tensor in state._tensors().items()}
    counts, means = total["counts"], total["means"]
    distributed.all_reduce(counts, group=group)
    share = state.counts.double() / counts.clamp(min=1).double()
    means *= share.to(state.dtype)[:, None]
    distributed.all_reduce(means, group=group)
    scatters = {name: total[f"scatter/{name}"] for name in state.scatter}
    # Spreads are taken about the mean as it was rounded, so rounding enters squared.
    for begin in range(0, counts.numel(), _ROWS):
        rows = slice(begin, begin + _ROWS)
        difference = state.means[rows].double() - means[rows].double()
        weights = state.counts[rows].double()
        _add_differences(state, scatters, difference, weights, begin)
        total["m2"][rows] += difference.square().sum(1) * weights
        if state.diagonal_m2 is not None:
            total["diagonal_m2"][rows] += difference.square() * weights[:, None]
    # A state that was loaded may hold its scatters in another order than one that was made.
    for name in sorted(total.keys() - {"counts", "means"}):
        distributed.all_reduce(total[name], group=group)
    for name, tensor in state._tensors().items():
        tensor.copy_(total[name])
    state.feature_roundoff = roundoff


def _agreed_roundoff(state: State, group: Any) -> float:
    """Return the coarsest roundoff of all ranks, or raise where they keep different things."""
    from torch import distributed

    subsets = {name: _listed(ids) for name, ids in state.scatter_ids.items()}
    kept = [state._configuration(), _listed(state.classes), subsets, state._stored]
    said = json.dumps(kept, sort_keys=True).encode()
    digest = float(int.from_bytes(hashlib.sha256(said).digest()[:6], "big"))  # float64 holds it
    most = [state.feature_roundoff, digest, -digest]
    found = torch.tensor(most, dtype=torch.float64, device=state.device)
    distributed.all_reduce(found, distributed.ReduceOp.MAX, group=group)
    roundoff, largest, negated = found.tolist()
    if largest != -negated:
        raise DataError(
            "ClassStatistics.all_reduce: the states of the ranks differ in num_classes, dim, "
            "classes, scatter, dtype, diagonal or storage; this one has "
            f"{state._configuration()}; expected the same on every rank"
        )
    if state._stored:
        raise ValueError(
            "ClassStatistics.all_reduce: the states live in files; expected states in memory, or "
            "merge the states that the ranks committed"
        )
    return roundoff


def _listed(ids: Tensor | None) -> list[int] | None:
    return None if ids is None else ids.tolist()
