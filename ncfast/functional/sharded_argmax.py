"""The class of highest score of a head whose vocabulary lies on several ranks.

Each rank chooses among its own rows. The scores of the ranks' choices, computed again in float64,
decide between them: three all-reduces of [N].
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from ..reference.checks import check_index
from ..shards import Meeting, VocabularyShard, all_reduce, digest_of

__all__ = ["own_index", "sharded_argmax"]

_TOKENS = 1024  # whose chosen rows are read in float64 at a time: 8 MiB of each at D = 1024
Choice = tuple[Tensor, Tensor, Tensor]


def own_index(op: str, shard: VocabularyShard, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return where in ``index`` this rank's rows are named, and which of its rows they are.

    Raises:
        ncfast.DataError: An index is out of range or doubled.
    """
    check_index(op, index, shard.num_classes)
    return shard.own_of(index)


def sharded_argmax(
    met: Meeting, x: Tensor, shard: VocabularyShard, head_bias: Tensor | None, index: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return classes [N] and margins [N] of this rank's tokens over the whole vocabulary.

    The arguments are those of :func:`ncfast.functional.linear_argmax`, checked.
    """
    rows = None if index is None else own_index(met.op, shard, index)[1]
    met.describe_head(x, shard.weight, head_bias, index=digest_of(index))
    tokens = met.agree(x)
    x = tokens.gather(met.op, x)
    error: Exception | None = None
    try:
        best, second, chosen = _own_choice(x, shard, head_bias, rows)
    except (ValueError, RuntimeError) as found:
        error = found
    met.share(error)
    most, least = distributed.ReduceOp.MAX, distributed.ReduceOp.MIN
    highest = all_reduce(met.op, best.clone(), met.groups, most, "highest scores")
    classes = torch.where(best == highest, chosen, shard.num_classes)
    all_reduce(met.op, classes, met.groups, least, "chosen classes")
    runner_up = torch.where(chosen == classes, second, best)
    all_reduce(met.op, runner_up, met.groups, most, "second scores")
    inputs = [t for t in (x, shard.weight, head_bias) if t is not None]
    wide = any(t.dtype == torch.float64 for t in inputs)
    margins = (highest - runner_up).to(torch.float64 if wide else torch.float32)
    return tokens.mine(classes).clone(), tokens.mine(margins).clone()


def _own_choice(
    x: Tensor, shard: VocabularyShard, bias: Tensor | None, rows: Tensor | None
) -> Choice:
    """Return the highest and second score [N] among this rank's rows, float64, and the class."""
    weight = shard.weight.detach()
    if not (weight if rows is None else rows).shape[0]:
        none = x.new_full((x.shape[0],), -torch.inf, dtype=torch.float64)
        return none, none, torch.full_like(none, shard.num_classes, dtype=torch.int64)
    chosen, margins = torch.ops.ncfast.linear_argmax(x, weight, bias, rows)
    best = torch.cat(
        [
            (part.double() * weight[ids].double()).sum(1)
            for part, ids in zip(x.split(_TOKENS), chosen.split(_TOKENS), strict=True)
        ]
    )
    if bias is not None:
        best = best + bias[chosen].double()
    return best, best - margins.double(), chosen + shard.vocab_start
