"""What metrics need of a head whose rows lie on several ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry import Rows, simplex_error
from ..shards import Meeting, VocabularyShard, all_reduce, digest_of
from ..statistics import ClassStatistics
from .selection import head_columns

__all__ = ["SplitHead", "agree"]


def agree(
    met: Meeting, stats: ClassStatistics, shard: VocabularyShard, slots: Tensor, options: object
) -> None:
    """Raise on every rank unless all have the same statistics and options, and shards that fit."""
    if shard.shape != (stats.num_classes, stats.dim) or shard.weight.device != stats.device:
        raise ValueError(
            f"neural_collapse: head_weight is {shard.shape} on all ranks, on "
            f"{shard.weight.device}; expected {(stats.num_classes, stats.dim)} on {stats.device}"
        )
    if not shard.weight.is_floating_point():
        raise TypeError(
            f"neural_collapse: head_weight is {shard.weight.dtype}; expected a float dtype"
        )
    classes = digest_of(stats.class_ids[slots])
    found = {"dtypes": (stats.dtype, shard.weight.dtype), "classes": classes}
    met.describe(**found, options=options)
    apart = met.agree(stats.means, stats.counts).apart
    if apart:
        raise ValueError(
            "neural_collapse: statistics differ between ranks; expected the same on each: call "
            "stats.all_reduce() first"
        )
    met.require_the_same("spreads of statistics", stats.m2[None], "stats.all_reduce() before")


@dataclass(frozen=True)
class SplitHead:
    """Hold this rank's rows of a head, for the measured classes."""

    shard: VocabularyShard  # The rows
    met: Meeting  # The ranks, which have agreed
    ids: Tensor  # [K] int64, the measured classes

    @property
    def places(self) -> Tensor:
        """[k] int64, which of the measured classes are this rank's."""
        return self.shard.own_of(self.ids)[0]

    @property
    def rows(self) -> Rows:
        """The head's rows of these."""
        return Rows(self.shard.weight, self.shard.own_of(self.ids)[1])

    def add(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over ranks."""
        return all_reduce(self.met.op, tensor.clone(), self.met.groups, what="sums over the head")

    def columns(self, means: Rows, center: Tensor) -> dict[str, Tensor]:
        """Return cosines with the means [K] and norms [K] of the rows of all ranks, float64."""
        places, error = self.places, None
        own = center.new_zeros(2, self.ids.numel())
        try:
            found = head_columns(self.shard.weight, self.rows.index, means.some(places), center)
            own[:, places] = torch.stack(found)
        except ValueError as raised:
            error = raised
        self.met.share(error)
        cosines, norms = self.add(own)
        return {"cosines": cosines, "head_norms": norms}

    def duality_error(self, means: Rows, gram: Tensor) -> float:
        """Return the simplex error of head rows and means, whose Gram matrix is given."""
        rows = self.rows
        return simplex_error(rows, means, self.add(rows.gram()), gram, self.places, add=self.add)
