"""The class of highest score, for every token."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops._metadata import FLOATS
from ..shards import VocabularyShard, sharded_head, this_meeting, whole_on_each_rank
from .checks import require, require_any_class, require_classes, require_index
from .sharded_argmax import sharded_argmax

__all__ = ["linear_argmax"]


@sharded_head("linear_argmax", "head_weight")
def linear_argmax(
    x: Tensor,
    head_weight: Tensor | VocabularyShard,
    head_bias: Tensor | None = None,
    index: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Choose each token's class of highest score, without ever storing the scores.

    .. math:: c_i = \arg\max_k \; \langle x_i, w_k \rangle + b_k

    Args:
        x: [N, D] float features.
        head_weight: [V, D] float, the head's rows; or those of several ranks, a DTensor with
            ``Shard(0)`` or a :class:`ncfast.VocabularyShard`, each with the tokens it has.
        head_bias: [V] float, or None; with a shard this rank's [V_r], or a DTensor sharded alike.
        index: [K] int64, the classes to choose among, each once; None allows all V. Rows left out
            are never read. The same on every rank.

    Returns:
        classes [N] int64, ids in [0, V), the lowest of those that tie. margin [N] float32 (float64
        if an input is): the highest score less the second highest, 0 at a tie, inf where there is
        only one class.

    No gradients: both outputs are detached. A softcap changes no argmax. With a head on several
    ranks a margin between ranks is of scores in float64.

    Raises:
        ValueError, TypeError: A shape, dtype or device is wrong, or there is no class.
        ncfast.DataError: An index is out of range or doubled; a feature or a visited row of the
            head is not finite, on any rank.
        ncfast.RankError: A rank that holds a part of the head did not come.

    Source: the classifier's side of NC4; Papyan, Han and Donoho (2020).

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    >>> [t.tolist() for t in linear_argmax(x, torch.eye(2))]
    [[0, 1], [1.0, 3.0]]
    """
    op, shard = "linear_argmax", None
    if isinstance(head_weight, VocabularyShard):
        shard, head_weight = head_weight, head_weight.weight
        x, head_bias = whole_on_each_rank(op, "x", x), shard.local(op, "head_bias", head_bias)
        require(op, "x", x, ("N", "D"), FLOATS)
        require(op, "head_weight", head_weight, ("V", x.shape[1]), FLOATS, like=x)
        require_index(op, index, x)
        require_any_class(op, shard.num_classes if index is None else index.shape[0])
    else:
        require_classes(op, "head_weight", head_weight, x, index)
    if head_bias is not None:
        require(op, "head_bias", head_bias, (head_weight.shape[0],), FLOATS, like=x)
        head_bias = head_bias.detach()
    if shard is not None:
        return sharded_argmax(this_meeting(), x.detach(), shard, head_bias, index)
    return torch.ops.ncfast.linear_argmax(x.detach(), head_weight.detach(), head_bias, index)
