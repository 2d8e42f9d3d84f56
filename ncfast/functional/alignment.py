"""The cosine of every head row with its class mean."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops._metadata import FLOATS, accumulation_dtype
from ..shards import VocabularyShard, digest_of, sharded_head, this_meeting, whole_on_each_rank
from .checks import center_tensor, given, require, require_index
from .sharded_alignment import rows_of, sharded_alignment

__all__ = ["alignment"]


@sharded_head("alignment", "head_weight")
def alignment(
    head_weight: Tensor | VocabularyShard,
    points: Tensor,
    center: Tensor | str | None = "classes",
    index: Tensor | None = None,
) -> Tensor:
    r"""Compute the cosine between each head row and its centred class mean.

    .. math:: s_k = \left\langle \frac{w_k}{\|w_k\|}, \frac{\mu_k - c}{\|\mu_k - c\|} \right\rangle

    Args:
        head_weight: [V, D] float, the head's rows; not centred. Or those of several ranks, a
            DTensor with ``Shard(0)`` or a :class:`ncfast.VocabularyShard`.
        points: [V, D] float, the class means; whole, and the same on every rank, also where the
            head is not.
        center: ``"classes"`` (mean of the visited points), ``"none"``, or a [D] tensor.
        index: [K] int64, the rows to visit, each once (a word set, the present classes); None
            visits all V.

    Returns:
        [K] cosines in float32 (float64 if an input is), in the order of ``index``. A zero vector
        has no direction: its cosine and its gradients are 0.

    Gradients flow to head_weight, points and center (through ``"classes"`` as well). Second
    derivatives raise. With a head on several ranks each has the result of one process, and has to
    make the same loss of it.

    Raises:
        ValueError, TypeError: A shape, dtype or device is wrong.
        ncfast.DataError: An index is out of range or doubled.
        ncfast.RankError: A rank that holds a part of the head did not come.

    Source: NC3 and (U)NC3 of Linguistic Collapse (arXiv 2405.17767) and of Collapsed Language
    Models Promote Fairness (arXiv 2410.04472).

    >>> alignment(torch.eye(2), torch.tensor([[2.0, 0.0], [3.0, 3.0]]), center="none")
    tensor([1.0000, 0.7071])
    """
    op = "alignment"
    if isinstance(head_weight, VocabularyShard):
        return _over_ranks(op, head_weight, points, center, index)
    require(op, "points", points, ("V", "D"), FLOATS)
    require(op, "head_weight", head_weight, tuple(points.shape), FLOATS, like=points)
    require_index(op, index, points)
    center_row = center_tensor(op, points, center, index, accumulation_dtype(head_weight, points))
    return torch.ops.ncfast.alignment(head_weight, points, center_row, index)


def _over_ranks(
    op: str,
    shard: VocabularyShard,
    points: Tensor,
    center: Tensor | str | None,
    index: Tensor | None,
) -> Tensor:
    met = this_meeting()
    points, center = (
        whole_on_each_rank(op, "points", points),
        whole_on_each_rank(op, "center", center),
    )
    require(op, "points", points, ("V", "D"), FLOATS)
    require(op, "head_weight", shard.weight, ("V", points.shape[1]), FLOATS, like=points)
    if points.shape[0] != shard.num_classes:
        raise ValueError(
            f"{op}: points is {given(points)} and the head has {shard.num_classes} rows on all "
            "ranks; expected a point for each"
        )
    require_index(op, index, points)
    own = rows_of(op, shard, index)
    center_row = center_tensor(op, points, center, index, accumulation_dtype(shard.weight, points))
    met.describe(
        **{
            "the dtypes of points and head_weight": (points.dtype, shard.weight.dtype),
            "index": digest_of(index),
            "what needs a gradient": _needs(shard.weight, points, center_row),
        }
    )
    if met.agree(points).apart:
        raise ValueError(f"{op}: points differ between ranks; expected the same on each")
    met.require_the_same("centers", center_row[None], "the same on each")
    return sharded_alignment(met, shard.weight, points, center_row, own)


def _needs(*tensors: Tensor) -> tuple[bool, ...]:
    return tuple(torch.is_grad_enabled() and t.requires_grad for t in tensors)
