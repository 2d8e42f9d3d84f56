"""A head whose vocabulary lies on several ranks: which rows are whose, and how the ranks meet.

The definition that every function with such a head follows, whatever shards the model: each rank's
result is of its own tokens, as if it held the whole head; the gradient of its own rows is the mean,
over the ranks that bring different tokens, of the gradients of these results. That is what FSDP and
DistributedDataParallel make of every other parameter. Ranks with the same tokens (tensor
parallelism) have the same result, and the mean is that result's gradient.

Rows of the head never travel; tokens do, to the ranks along each axis of the mesh where they
differ.
"""

from __future__ import annotations

from .collectives import all_gather, all_reduce, padded, reduce_scatter
from .fingerprints import digest_of, digest_of_values
from .meeting import Meeting, meeting, sharded_head, this_meeting
from .tokens import Tokens
from .vocabulary_shard import VocabularyShard, is_sharded, shard_of, whole_on_each_rank

__all__ = [
    "Meeting",
    "Tokens",
    "VocabularyShard",
    "all_gather",
    "all_reduce",
    "digest_of",
    "digest_of_values",
    "is_sharded",
    "meeting",
    "padded",
    "reduce_scatter",
    "shard_of",
    "sharded_head",
    "this_meeting",
    "whole_on_each_rank",
]
