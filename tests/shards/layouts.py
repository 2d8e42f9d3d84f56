"""How a test's head and tokens lie on ranks."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ncfast

# Of 2 and of 4 ranks: how many classes each holds, of 23.
SPLITS = {
    "even": {2: (12, 11), 4: (6, 6, 6, 5)},
    "ragged": {2: (3, 20), 4: (7, 1, 13, 2)},
    "empty": {2: (23, 0), 4: (0, 11, 0, 12)},
}
V = 23
RANDOM = 6


def _random_split(seed: int, ranks: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    ends = [0, *torch.randint(0, V + 1, (ranks - 1,), generator=generator).sort()[0].tolist(), V]
    return tuple(end - start for start, end in itertools.pairwise(ends))


for _seed in range(RANDOM):
    SPLITS[f"random {_seed}"] = {ranks: _random_split(_seed, ranks) for ranks in (2, 4)}


@dataclass(frozen=True)
class Layout:
    """Name how the head is split, and which of R ranks has which part of the tokens."""

    name: str
    ranks: int
    split: str = "even"  # or "mesh": a DTensor on a 2 x R/2 mesh
    parts: int = 1  # tokens are divided among so many ranks, along the mesh's first axis

    def part(self, rank: int) -> int:
        return rank * self.parts // self.ranks

    def shard(self, head: torch.Tensor, rank: int) -> Any:
        """Return what stands for the head on a rank, with a way back to the gradient's rows."""
        from torch.distributed.tensor import Shard, distribute_tensor

        if self.split in MESHES:
            mesh = mesh_of(self.split, self.ranks)
            return distribute_tensor(head, mesh, [Shard(0)] * mesh.ndim, src_data_rank=None)
        rows = SPLITS[self.split][self.ranks]
        start = sum(rows[:rank])
        return ncfast.VocabularyShard(head[start : start + rows[rank]], start, len(head))


MESHES = {"dtensor": lambda ranks: (ranks,), "mesh": lambda ranks: (2, ranks // 2)}


@functools.cache
def mesh_of(split: str, ranks: int) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", MESHES[split](ranks))


def layouts(ranks: int) -> list[Layout]:
    found = [
        Layout("tensor parallel", ranks, "dtensor"),
        Layout("tensor parallel, ragged", ranks, "ragged"),
        Layout("tensor parallel, empty", ranks, "empty"),
        Layout("fsdp", ranks, "dtensor", ranks),
        Layout("fsdp, ragged", ranks, "ragged", ranks),
        Layout("fsdp, empty", ranks, "empty", ranks),
    ]
    if ranks == 4:
        found += [
            Layout("2 x 2", ranks, "mesh", 2),
            Layout("2 x 2, tensor parallel", ranks, "mesh"),
            Layout("2 x 2, fsdp", ranks, "mesh", 4),
        ]
    return found


def random_layouts(ranks: int) -> list[Layout]:
    """Return splits of the vocabulary drawn at random, tokens alike and apart by turns."""
    return [
        Layout(f"random {seed}", ranks, f"random {seed}", 1 if seed % 2 else ranks)
        for seed in range(RANDOM)
    ]


class Wire(TorchDispatchMode):
    """Count the bytes that collectives are given, by what they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[str, int] = {}
        self.largest: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            tensors = [t for t in torch.utils._pytree.tree_leaves((args, kwargs))]
            most = max(t.nbytes for t in tensors if isinstance(t, torch.Tensor))
            self.bytes[func._opname] = self.bytes.get(func._opname, 0) + most
            self.largest[func._opname] = max(self.largest.get(func._opname, 0), most)
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        return sum(self.bytes.values())


def told(function) -> str:
    """Return the sentence a call ends with; empty where it ends well."""
    try:
        function()
        return ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"
