"""What a step sends between devices, read off the collectives that its engines call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, distributed
from torch.utils._pytree import tree_leaves

__all__ = ["Message", "Traffic", "sent_bytes"]

# Bytes that each of n devices sends in a ring, over those of the whole tensor.
_RING = {
    "all_gather": lambda n: (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "all_reduce": lambda n: 2 * (n - 1) / n,
}


@dataclass(frozen=True)
class Message:
    """Name what travels: in which collective, over which part of the devices."""

    collective: str  # ``"all_gather"``, ``"reduce_scatter"`` or ``"all_reduce"``
    over: str  # ``"data"`` or ``"tensor"``: the dimension of the mesh
    devices: int  # how many take part


def sent_bytes(message: Message, size: float) -> float:
    """Return the bytes that one device sends when a collective of a tensor runs in a ring.

    >>> sent_bytes(Message("all_reduce", "tensor", 4), 100)
    150.0
    """
    return size * _RING[message.collective](message.devices)


class Traffic:
    """Add up the bytes of whole tensors that collectives carry.

    Args:
        dimensions: name of a process group -> dimension of the mesh.

    Attributes:
        sizes: message -> bytes; counts: message -> how often.
    """

    def __init__(self, dimensions: Mapping[str, str]) -> None:
        self._dimensions = dimensions
        self.sizes: dict[Message, float] = {}
        self.counts: dict[Message, float] = {}

    def observe(self, name: str, args: tuple) -> None:
        """Take note of an operation, named as torch prints it, if it is a collective."""
        if name.startswith("c10d."):
            self._old(name, args)
        elif name.startswith("_c10d_functional."):
            self._functional(name, args)

    def _old(self, name: str, args: tuple) -> None:
        if "_allgather_base_" in name:
            self._add("all_gather", _group(args[2]), args[0].nbytes)
        elif "_reduce_scatter_base_" in name:
            self._add("reduce_scatter", _group(args[2]), args[1].nbytes)
        elif "allreduce_" in name:
            tensors = [leaf for leaf in tree_leaves(args[0]) if isinstance(leaf, Tensor)]
            self._add("all_reduce", _group(args[1]), sum(t.nbytes for t in tensors))

    def _functional(self, name: str, args: tuple) -> None:
        if "all_reduce" in name:
            self._add("all_reduce", args[2], args[0].nbytes)
        elif "all_gather_into_tensor" in name:
            self._add("all_gather", args[2], args[0].nbytes * args[1])
        elif "reduce_scatter_tensor" in name:
            self._add("reduce_scatter", args[3], args[0].nbytes)

    def _add(self, collective: str, group: str, size: int) -> None:
        found: Any = distributed.distributed_c10d._resolve_process_group(cast(Any, group))
        over = self._dimensions.get(group, "all")
        message = Message(collective, over, found.size())
        self.sizes[message] = self.sizes.get(message, 0) + size
        self.counts[message] = self.counts.get(message, 0) + 1


def _group(group: Any) -> str:
    return distributed.ProcessGroup.unbox(group).group_name
