"""The collectives of torch.distributed, whose failures are one sentence.

Each runs under the timeout of its process group (``init_process_group(timeout=...)``, half an hour
by default): a rank that has died, or never comes, ends the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed

from ..errors import RankError

# Their names before torch 2.13, under which they are deprecated since.
_GATHER = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
_SCATTER = getattr(distributed, "reduce_scatter_single", None) or distributed.reduce_scatter_tensor

__all__ = ["all_gather", "all_gather_objects", "all_reduce", "reduce_scatter"]


def all_reduce(
    op: str, tensor: Tensor, groups: Sequence[Any], how: Any = None, what: str = "sums"
) -> Tensor:
    """Reduce a contiguous tensor over the ranks of all groups, in place, and return it.

    ``groups`` are one per axis of the mesh of ranks; ``how`` is a ``ReduceOp``, None adds. ``op``
    and ``what`` are for messages.
    """
    how = distributed.ReduceOp.SUM if how is None else how
    for group in groups:
        _met(op, what, group, partial(distributed.all_reduce, tensor, how, group=group))
    return tensor


def all_gather(op: str, tensor: Tensor, groups: Sequence[Any], what: str = "tokens") -> Tensor:
    """Return [R * n, ...]: a tensor [n, ...] of every rank, the last group's ranks outermost."""
    for group in groups:
        shape = (distributed.get_world_size(group) * tensor.shape[0], *tensor.shape[1:])
        whole, part = tensor.new_empty(shape), tensor.contiguous()
        _met(op, what, group, partial(_GATHER, whole, part, group=group))
        tensor = whole
    return tensor


def reduce_scatter(op: str, tensor: Tensor, groups: Sequence[Any], what: str) -> Tensor:
    """Return this rank's [n, ...] of the sum of [R * n, ...]: :func:`all_gather`'s transpose."""
    for group in reversed(groups):
        shape = (tensor.shape[0] // distributed.get_world_size(group), *tensor.shape[1:])
        part, whole = tensor.new_empty(shape), tensor.contiguous()
        _met(op, what, group, partial(_SCATTER, part, whole, group=group))
        tensor = part
    return tensor


def all_gather_objects(op: str, value: Any, groups: Sequence[Any], what: str) -> list[Any]:
    """Return what every rank gives, in the order of :func:`all_gather`."""
    values = [value]
    for group in groups:
        found: list[Any] = [None] * distributed.get_world_size(group)
        _met(op, what, group, partial(distributed.all_gather_object, found, values, group=group))
        values = [one for part in found for one in part]
    return values


def _met(op: str, what: str, group: Any, call: Callable[[], Any]) -> None:
    try:
        call()
    except RuntimeError as error:
        ranks = distributed.get_process_group_ranks(group)
        raise RankError(
            f"{op}: ranks {ranks} did not meet to exchange {what}; expected each to make the same "
            f"calls within the timeout of their process group: {str(error).strip().splitlines()[0]}"
        ) from None


def padded(x: Tensor, tokens: int) -> Tensor:
    """Return x [n, D] with rows of 0 added to the end, up to ``tokens``."""
    rows = x.new_zeros(tokens - x.shape[0], *x.shape[1:])
    return torch.cat([x, rows]) if len(rows) else x
