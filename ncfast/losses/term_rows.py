"""The head's rows of a term's classes, whole on this rank or on several."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from .. import functional as F
from ..functional.checks import FLOATS, require
from ..functional.sharded_alignment import OwnRows, placed_columns, sharded_alignment
from ..shards import VocabularyShard, digest_of, this_meeting
from .class_means import ClassMeans

__all__ = ["NAME", "ShardedTermRows", "TermRows", "given_bias"]

NAME = "DualityRegularizer"


def _norms(rows: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1, dtype=dtype)


def given_bias(bias: Tensor | None) -> Tensor:
    """Return a bias, or raise where there is none."""
    if bias is None:
        raise ValueError(f"{NAME}: pair_weights.bias needs head_bias; got None")
    return bias


class TermRows:
    """Hold rows [K, D] that are whole on this rank."""

    def __init__(self, slots: ClassMeans, rows: Tensor, bias: Tensor | None) -> None:
        self.rows, self.bias, self.slots = rows, bias, slots
        if bias is not None:
            require(NAME, "head_bias", bias, (slots.num_classes,), FLOATS, like=rows)

    def cosines(self, means: Tensor, center: Tensor) -> Tensor:
        """Return the cosine [K] of every row with its mean [K, D] less the center [D]."""
        return F.alignment(self.rows, means, center)

    def norms(self, dtype: torch.dtype) -> Tensor:
        """Return the norms [K] of the rows."""
        return _norms(self.rows, dtype)

    def biases(self, dtype: torch.dtype) -> Tensor:
        """Return the biases [K] of the classes."""
        bias = given_bias(self.bias)
        return (bias if self.slots.every_class else bias[self.slots.ids]).to(dtype)


class ShardedTermRows:
    """Hold this rank's rows of a head, of which every rank needs the results of all."""

    def __init__(
        self, slots: ClassMeans, shard: VocabularyShard, bias: Tensor | None, detached: bool
    ) -> None:
        self.met, self.slots = this_meeting(), slots
        require(NAME, "head_weight", shard.weight, ("V", slots.dim), FLOATS)
        if shard.num_classes != slots.num_classes:
            raise ValueError(
                f"{NAME}: head_weight is {shard.shape} on all ranks; "
                f"expected {(slots.num_classes, slots.dim)}"
            )
        self.bias = shard.local(NAME, "head_bias", bias)
        if self.bias is not None:
            require(NAME, "head_bias", self.bias, (shard.rows,), FLOATS, like=shard.weight)
        places, self.index = shard.own_of(slots.ids)
        self.own = OwnRows(places, None, places, slots.ids.numel())
        weight = shard.weight.detach() if detached else shard.weight
        self.rows = weight.index_select(0, self.index)

    def agree(self, x: Tensor, y: Tensor, options: dict[str, Any]) -> int:
        """Let the ranks agree; return how many that share class means bring these tokens."""
        slots, grad = self.slots, torch.is_grad_enabled()
        bias = None if self.bias is None else self.bias.dtype
        said: dict[str, Any] = {
            "the dtypes of x, head_weight and head_bias": (x.dtype, self.rows.dtype, bias),
            "classes": digest_of(slots.ids),
            "means": (slots.kind, slots.decay, slots.through),
            "what needs a gradient": (grad and x.requires_grad, grad and self.rows.requires_grad),
        }
        self.met.describe(**options, **said)
        tokens = self.met.agree(x, y)
        group = slots.process_group or distributed.group.WORLD
        return len({*distributed.get_process_group_ranks(group)} & {*tokens.ranks})

    def require_the_same(self, means: Tensor) -> None:
        """Raise on every rank unless all have the same class means."""
        expected = "a process_group that holds every rank of the head, or the same tokens on each"
        self.met.require_the_same("class means", means, expected)

    def cosines(self, means: Tensor, center: Tensor) -> Tensor:
        """Return the cosine [K] of every row with its mean [K, D] less the center [D]."""
        return sharded_alignment(self.met, self.rows, means, center.to(means.dtype), self.own)

    def norms(self, dtype: torch.dtype) -> Tensor:
        """Return the norms [K] of the rows."""
        return placed_columns(self.met, _norms(self.rows, dtype)[None], self.own)[0]

    def biases(self, dtype: torch.dtype) -> Tensor:
        """Return the biases [K] of the classes."""
        bias = given_bias(self.bias).to(dtype)[self.index]
        return placed_columns(self.met, bias[None], self.own)[0]
