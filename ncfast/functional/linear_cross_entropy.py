"""The classifier's loss per token (op ``linear_cross_entropy``), and the memory it takes."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from ..ops._metadata import FLOATS, accumulation_dtype
from ..ops.linear_cross_entropy import workspace_bytes
from ..shards import VocabularyShard, sharded_head, this_meeting, whole_on_each_rank
from .checks import given, require, require_tokens
from .sharded_cross_entropy import sharded_nll_lse

__all__ = ["linear_cross_entropy", "linear_cross_entropy_bytes", "linear_nll_lse"]


@sharded_head("linear_cross_entropy", "head_weight")
def linear_nll_lse(
    x: Tensor,
    head_weight: Tensor | VocabularyShard,
    y: Tensor,
    head_bias: Tensor | None = None,
    softcap: float = 0.0,
    vocab_start: int = 0,
    label_smoothing: float = 0.0,
    memory_budget: int = 0,
    vocab_size: int | None = None,
    check_finite: bool = True,
) -> tuple[Tensor, Tensor]:
    r"""Compute each token's negative log-likelihood and log-sum-exp without storing its logits.

    .. math:: z_{ij} = \langle x_i, w_j \rangle + b_j, \quad lse_i = \ln \sum_j e^{z_{ij}}, \quad
              nll_i = lse_i - z_{i y_i}

    With a soft-cap c, z becomes c tanh(z/c). With label smoothing s,
    nll is lse - (1 - s) z_y - (s/V) sum_j z_j, whose sum comes from the sum of the head's rows.

    Args:
        x: [N, D] float, the features (the head's input).
        head_weight: [V, D] float, the head's rows; or those of several ranks, a DTensor with
            ``Shard(0)`` or a :class:`ncfast.VocabularyShard`, each with the tokens it has.
        y: [N] integer classes in ``[0, vocab_size)``, or -100 to ignore the token, which then costs
            nothing.
        head_bias: [V] float; with a shard this rank's [V_r], or a DTensor sharded as the head is.
        softcap: c > 0, in units of the logits; 0 for none.
        vocab_start: The class of row 0, where the head is one shard of the vocabulary.
        label_smoothing: s in [0, 1]; rejected together with a soft-cap.
        memory_budget: Bytes of logits to keep for backward, which then need not be computed again:
            those of the first classes, in whole tiles of 512. Results are the same to rounding.
        vocab_size: Number of classes; None: the head's last row is the last class. Name it for any
            shard but the last, and for a head with rows that pad the vocabulary: rows at
            ``vocab_size`` and after are never read and get gradient 0.
        check_finite: Raise at a NaN or Inf in the features of valid tokens, as measuring needs.
            False: it propagates to the outputs and gradients as in plain torch, so that a
            ``GradScaler`` sees it and skips the step.

    Returns:
        nll [N] and lse [N] in float32 (float64 if x or head_weight is), 0 where y is -100.
        Of one shard alone (``vocab_start``), lse is over its own rows and the target logit is 0
        where the label is another shard's. The whole is ``lse = logsumexp over shards`` and
        ``nll = lse - sum over shards of (lse_s - nll_s)``.

    Gradients flow to x, head_weight and head_bias through both outputs (through lse for a z-loss),
    in each one's dtype, summed in float32 or float64. Logits are computed again in tiles. Second
    derivatives raise. Of a head on several ranks, each returns what one process with all rows
    would, and gradients to its rows are means over ranks: see :mod:`ncfast.shards`.

    Raises:
        ValueError, TypeError: A shape, dtype, device or setting is wrong.
        ncfast.DataError: A label is out of range, or (with ``check_finite``) a feature of a valid
            token is NaN or Inf.
        ncfast.RankError: A rank that holds a part of the head did not come.

    Source: Cut Your Losses (arXiv 2411.09009), whose algorithm this is without its approximation.

    >>> y = torch.tensor([1, -100])
    >>> nll, lse = linear_nll_lse(torch.zeros(2, 3), torch.ones(4, 3), y)
    >>> nll.tolist() == lse.tolist() == [torch.tensor(4.0).log().item(), 0.0]
    True
    """
    op, shard = "linear_cross_entropy", None
    if isinstance(head_weight, VocabularyShard):
        shard, head_weight, start = head_weight, head_weight.weight, vocab_start
        x, y = whole_on_each_rank(op, "x", x), whole_on_each_rank(op, "y", y)
        head_bias = shard.local(op, "head_bias", head_bias)
        if start:
            raise ValueError(
                f"{op}: vocab_start is {start}; expected 0, as the shard names its own"
            )
    y = require_tokens(op, x, y)
    require(op, "head_weight", head_weight, ("V", x.shape[1]), FLOATS, like=x)
    if head_bias is not None:
        wide = accumulation_dtype(x, head_weight) == torch.float64
        narrow = tuple(dtype for dtype in FLOATS if wide or dtype != torch.float64)
        require(op, "head_bias", head_bias, (head_weight.shape[0],), narrow, like=x)
    classes = head_weight.shape[0] if shard is None else shard.num_classes
    size = vocab_start + classes if vocab_size is None else vocab_size
    if classes < 1:
        raise ValueError(f"{op}: head_weight is {given(head_weight)}; expected at least one row")
    if vocab_start < 0 or vocab_start >= size:
        raise ValueError(
            f"{op}: vocab_start is {vocab_start}; expected a class in [0, {size}) (vocab_size)"
        )
    if not 0 <= softcap < math.inf:
        raise ValueError(f"{op}: softcap is {softcap}; expected 0 or a positive number")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{op}: label_smoothing is {label_smoothing}; expected [0, 1]")
    if softcap and label_smoothing:
        raise ValueError(
            f"{op}: label_smoothing is {label_smoothing} and softcap is {softcap}; expected one of "
            "them to be 0: the sum of capped logits has no closed form"
        )
    if memory_budget < 0:
        raise ValueError(f"{op}: memory_budget is {memory_budget}; expected bytes, 0 or more")
    if shard is not None:
        settings = (softcap, label_smoothing, memory_budget, size, check_finite)
        return sharded_nll_lse(this_meeting(), x, shard, y, head_bias, *settings)
    nll, lse, _ = torch.ops.ncfast.linear_cross_entropy(
        *(x, head_weight, y, head_bias, softcap, vocab_start, size, label_smoothing),
        *(memory_budget, check_finite),
    )
    return nll, lse


def linear_cross_entropy(*args: Any, **settings: Any) -> tuple[Tensor, Tensor]:
    """Call :func:`linear_nll_lse`, whose name this was: deprecated, as it is torch's for a loss."""
    warnings.warn(
        "ncfast.functional.linear_cross_entropy, which returns (nll, lse), is now called "
        "linear_nll_lse; the reduced loss is ncfast.losses.linear_cross_entropy",
        DeprecationWarning,
        stacklevel=2,
    )
    return linear_nll_lse(*args, **settings)


def linear_cross_entropy_bytes(
    tokens: int,
    classes: int,
    width: int,
    dtype: torch.dtype = torch.float32,
    memory_budget: int = 0,
    threads: int | None = None,
) -> dict[str, int]:
    r"""Predict the memory that linear_cross_entropy takes on the cpu beside inputs and gradients.

    .. math:: B = \max(B_{forward}, B_{backward}) + B_{stored}

    Args:
        tokens: N, those that count.
        classes: V.
        width: D.
        dtype: Of x and of the head.
        memory_budget: As given to :func:`linear_nll_lse`.
        threads: How many run; None for torch's number.

    Returns:
        Bytes by part: ``forward`` and ``backward`` while each runs, ``stored`` from one to the
        other. No part holds N x V logits but ``stored``, which is at most the budget.

    Numbers only: no gradients.

    Raises:
        ValueError: A size is negative.

    Source: the kernels of csrc/cpu.

    >>> linear_cross_entropy_bytes(4096, 49152, 576)["stored"]
    0
    >>> linear_cross_entropy_bytes(4096, 49152, 576, threads=2)["backward"] <= 64 << 20
    True
    """
    if min(tokens, classes, width, memory_budget) < 0:
        raise ValueError(
            f"linear_cross_entropy_bytes: {tokens} tokens, {classes} classes, width {width}, "
            f"budget {memory_budget}; expected 0 or more"
        )
    count = torch.get_num_threads() if threads is None else threads
    return workspace_bytes(tokens, classes, width, dtype, memory_budget, threads=count)
