"""One rank's rows of a head, and where they stand in the vocabulary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, distributed

__all__ = ["VocabularyShard", "is_sharded", "shard_of", "whole_on_each_rank"]


@dataclass(frozen=True, eq=False)
class VocabularyShard:
    r"""Name one rank's rows of a head whose vocabulary is split over ranks.

    .. math:: W = (W_0; W_1; \dots; W_{R-1}), \quad W_r \in \mathbb{R}^{V_r \times D}

    It stands in the place of ``head_weight`` wherever a sharded head is accepted. A DTensor with
    ``Shard(0)`` on every axis of its mesh needs no wrapper: it says the same by itself.

    Args:
        weight: [V_r, D] float, this rank's rows; V_r may differ between ranks, and be 0.
        vocab_start: The class of row 0.
        num_classes: V, of all ranks together. The ranks' rows must tile [0, V).
        process_group: The ranks that hold the head; None: all. Or a sequence of groups, one for
            each axis of a mesh of ranks.

    A bias goes with it as [V_r], this rank's entries. Gradients flow to ``weight``; see
    :mod:`ncfast.shards` for what they are.

    Raises:
        ValueError: ``vocab_start`` and the rows do not lie in [0, V), torch.distributed is not
            set up, or this rank is not in ``process_group``.

    Source: the layout is that of Megatron-LM (arXiv 1909.08053).

    >>> import torch
    >>> VocabularyShard(torch.zeros(2, 3), 3, 4)
    Traceback (most recent call last):
    ValueError: VocabularyShard: rows 3 to 4 of 4 classes; expected rows in [0, 4)
    """

    weight: Tensor
    vocab_start: int
    num_classes: int
    process_group: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.weight, Tensor) or self.weight.ndim != 2 or is_sharded(self.weight):
            shape = tuple(getattr(self.weight, "shape", ()))
            raise ValueError(
                f"VocabularyShard: weight is a {type(self.weight).__name__} {shape}; expected this "
                "rank's rows, a plain tensor [V_r, D]"
            )
        end = self.vocab_start + self.rows
        if not 0 <= self.vocab_start <= end <= self.num_classes:
            raise ValueError(
                f"VocabularyShard: rows {self.vocab_start} to {end - 1} of {self.num_classes} "
                f"classes; expected rows in [0, {self.num_classes})"
            )
        if not (distributed.is_available() and distributed.is_initialized()):
            raise ValueError(
                "VocabularyShard: torch.distributed is not set up; expected init_process_group "
                "before a head is split over ranks"
            )
        if any(distributed.get_rank(group) < 0 for group in self._given_groups()):
            raise _elsewhere("VocabularyShard: the head", "the ranks of another process_group")

    @property
    def rows(self) -> int:
        """V_r."""
        return self.weight.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(V, D), of the whole head."""
        return self.num_classes, self.weight.shape[1]

    def _given_groups(self) -> tuple[Any, ...]:
        groups = self.process_group
        if groups is None:
            groups = distributed.group.WORLD
        return tuple(groups) if isinstance(groups, Sequence) else (groups,)

    @property
    def groups(self) -> tuple[Any, ...]:
        """The process groups that hold the head, those of one rank left out."""
        return tuple(g for g in self._given_groups() if distributed.get_world_size(g) > 1)

    @property
    def size(self) -> int:
        """The number of ranks that hold the head."""
        return math.prod(distributed.get_world_size(group) for group in self.groups)

    def own_of(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return where in ``ids`` [K] this rank's classes stand, and which of its rows they are."""
        rows = ids - self.vocab_start
        places = ((rows >= 0) & (rows < self.rows)).nonzero()[:, 0]
        return places, rows[places]

    def own(self, classes: int) -> slice:
        """Return which of this rank's rows are among the first ``classes`` of the vocabulary."""
        return slice(0, max(0, min(self.rows, classes - self.vocab_start)))

    def local(self, op: str, name: str, tensor: Any) -> Any:
        """Return what goes with the rows (a bias) as this rank's part; what is no DTensor is it.

        Raises:
            TypeError: It is a DTensor that does not lie as the head does.
        """
        if not hasattr(tensor, "device_mesh"):
            return tensor
        part, start, total, groups = _own_part(f"{op}: {name}", tensor, ("V",))
        own = (self.vocab_start if self.rows else 0, self.rows, self.num_classes)
        # Meshes of the same ranks are the same, whoever made them.
        same = [_ranks(group) for group in groups] == [_ranks(group) for group in self.groups]
        if (start, len(part), total) != own or not same:
            raise TypeError(
                f"{op}: {name} has entries [{start}, {start + len(part)}) of {total} on this rank; "
                f"expected those of the head's rows, [{own[0]}, {own[0] + own[1]}) of {own[2]}"
            )
        return part

    @classmethod
    def of(cls, head: Any, name: str = "VocabularyShard.of: head") -> VocabularyShard:
        """Return this rank's rows of a DTensor, with gradients to it.

        Args:
            head: [V, D] DTensor, ``Shard(0)`` on every axis of its mesh (of FSDP2, of tensor
                parallelism, or of both), V divisible or not.
            name: What to call it in a message.

        Raises:
            ValueError: It is sharded in another way.
        """
        local, start, total, groups = _own_part(name, head, ("V", "D"))
        return cls(local, start, total, groups)


def _own_part(
    name: str, tensor: Any, shape: tuple[str, ...]
) -> tuple[Tensor, int, int, tuple[Any, ...]]:
    """Return this rank's rows of a DTensor, where they start, of how many, and its groups."""
    mesh, placements = tensor.device_mesh, tensor.placements
    axes = [i for i in range(mesh.ndim) if mesh.size(i) > 1]
    along = [placements[i] for i in axes]
    if tensor.ndim != len(shape) or any(p.is_partial() or getattr(p, "dim", 1) for p in along):
        raise ValueError(
            f"{name} is a sharded {type(tensor).__name__} {tuple(tensor.shape)} with "
            f"{placements}; expected [{', '.join(shape)}] with Shard(0) on every axis of its mesh: "
            "redistribute it, or give this rank's rows as a VocabularyShard"
        )
    if mesh.get_coordinate() is None:
        raise _elsewhere(name, f"ranks {mesh.mesh.flatten().tolist()}")
    (chunk,) = tensor.__create_chunk_list__()
    local = tensor.to_local()
    start = chunk.offsets[0] if len(local) else 0
    return local, start, tensor.shape[0], tuple(mesh.get_group(i) for i in axes)


def _elsewhere(name: str, where: str) -> ValueError:
    return ValueError(
        f"{name} lies on {where}; expected this rank, {distributed.get_rank()}, to be one of them"
    )


def _ranks(group: Any) -> list[int]:
    ranks: list[int] = distributed.get_process_group_ranks(group)
    return ranks


def is_sharded(head: Any) -> bool:
    """Return whether a head lies on several ranks: a VocabularyShard or a DTensor."""
    return isinstance(head, VocabularyShard) or hasattr(head, "device_mesh")


def shard_of(op: str, name: str, head: Any) -> VocabularyShard:
    """Return a head that :func:`is_sharded` as this rank's rows."""
    return head if isinstance(head, VocabularyShard) else VocabularyShard.of(head, f"{op}: {name}")


def whole_on_each_rank(op: str, name: str, tensor: Any) -> Any:
    """Return a replicated DTensor as a plain tensor, with gradients to it; others as they are.

    Raises:
        TypeError: It is sharded.
    """
    if not hasattr(tensor, "device_mesh"):
        return tensor
    if not all(placement.is_replicate() for placement in tensor.placements):
        raise TypeError(
            f"{op}: {name} is a DTensor with {tensor.placements}; expected one that is whole on "
            "each rank (Replicate), or the plain tensor of this rank's own tokens (to_local)"
        )
    return tensor.to_local()
