"""Log-likelihood and log-sum-exp of a head whose vocabulary lies on several ranks.

Each rank runs the op on its own rows. Forward, the largest of the ranks' log-sum-exps and the sum
of their exponentials about it travel, [N] each, with the targets' logits; backward runs on the own
rows with the log-sum-exp of all, and gradients to the features are added over ranks, in float32 or
wider.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

from ..errors import DataError
from ..reference.checks import IGNORE_INDEX
from ..shards import Meeting, Tokens, VocabularyShard, all_reduce, reduce_scatter

__all__ = ["sharded_nll_lse", "sharded_row_sum"]


class _Settings(NamedTuple):
    op: str
    softcap: float
    vocab_start: int
    vocab_size: int
    label_smoothing: float
    memory_budget: int
    check_finite: bool


def sharded_nll_lse(
    met: Meeting,
    x: Tensor,
    shard: VocabularyShard,
    y: Tensor,
    head_bias: Tensor | None,
    softcap: float,
    label_smoothing: float,
    memory_budget: int,
    vocab_size: int,
    check_finite: bool,
) -> tuple[Tensor, Tensor]:
    """Return nll [N] and lse [N] of this rank's tokens over the whole vocabulary.

    The arguments are those of :func:`ncfast.functional.linear_nll_lse`, checked, and equal on every
    rank but for x, y and the rank's own rows.
    """
    inputs = [t for t in (x, shard.weight, head_bias) if t is not None]
    grad = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    met.describe_head(
        x,
        shard.weight,
        head_bias,
        softcap=softcap,
        label_smoothing=label_smoothing,
        vocab_size=vocab_size,
        check_finite=check_finite,
        **{"whether gradients are needed": grad},
    )
    tokens = met.agree(x, y, grad and x.requires_grad)
    settings = _Settings(
        met.op,
        softcap,
        shard.vocab_start,
        vocab_size,
        label_smoothing,
        memory_budget=memory_budget,
        check_finite=check_finite,
    )
    # A rank without rows reads one of zeros, so that it rejects the same tokens as the others.
    rows = shard.own(vocab_size)
    nll, lse = _ShardedNllLse.apply(x, shard.weight, head_bias, y, rows.stop, settings, met, tokens)
    return nll, lse


class _ShardedNllLse(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        y: Tensor,
        rows: int,
        settings: _Settings,
        met: Meeting,
        tokens: Tokens,
    ) -> tuple[Tensor, Tensor]:
        x, own_dtype = tokens.gather(met.op, x), x.dtype
        y = tokens.gather(met.op, y, IGNORE_INDEX, "labels")
        lse, target, logits = _of_own_rows(
            x, weight, bias, y, rows, settings=settings, met=met, tokens=tokens
        )
        lse, target = _of_all_rows(lse, target, met)
        valid = y != IGNORE_INDEX
        nll = torch.where(valid, lse - target, 0)
        lse = torch.where(valid, lse, 0)
        ctx.save_for_backward(x, weight, bias, y, lse, logits)
        ctx.rows, ctx.settings, ctx.met, ctx.tokens = rows, settings, met, tokens
        ctx.dtype = own_dtype
        # Copies: they outlive this call, all tokens of all ranks need not.
        return tokens.mine(nll).clone(), tokens.mine(lse).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_nll: Tensor, grad_lse: Tensor) -> Any:
        x, weight, bias, y, lse, logits = ctx.saved_tensors
        met, tokens, settings = ctx.met, ctx.tokens, ctx.settings
        grads = torch.stack([grad_nll, grad_lse], 1)
        met.require_the_same_gradients(grads, tokens.alike)
        grads = tokens.gather(met.op, grads, what="gradients of the loss")
        x = x.to(lse.dtype)  # so that what ranks add to is not rounded before it is added
        if ctx.rows:
            found = torch.ops.ncfast.linear_cross_entropy_backward(
                *(grads.T / tokens.spread),
                *(x, weight, y, bias, lse, logits),
                *(settings.softcap, settings.vocab_start, settings.vocab_size),
                *(settings.label_smoothing, tokens.need_grad, *ctx.needs_input_grad[1:3]),
            )
        else:  # nothing of this rank's head takes part
            found = [None if t is None else torch.zeros_like(t) for t in (x, weight, bias)]
        grad_x, grad_weight, grad_bias = found
        if tokens.need_grad:
            all_reduce(met.op, grad_x, tokens.alike, what="gradients of x")
            grad_x = reduce_scatter(met.op, grad_x, tokens.apart, "gradients of x")
            grad_x = (grad_x[: tokens.own] * tokens.spread).to(ctx.dtype)
        found = [
            grad if need else None
            for grad, need in zip(
                (grad_x, grad_weight, grad_bias), ctx.needs_input_grad, strict=False
            )
        ]
        return (*found, None, None, None, None, None)


def _of_own_rows(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    rows: int,
    settings: _Settings,
    met: Meeting,
    tokens: Tokens,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return lse [N] over this rank's rows, what they add to the target [N], and kept logits."""
    start, smoothing = settings.vocab_start, settings.label_smoothing
    if not rows:
        weight, bias, start = x.new_zeros(1, x.shape[1], dtype=weight.dtype), None, 0
    error: Exception | None = None
    try:
        nll, lse, logits = torch.ops.ncfast.linear_cross_entropy(
            *(x, weight, y, bias, settings.softcap, start, settings.vocab_size, smoothing),
            *(settings.memory_budget if rows else 0, settings.check_finite),
        )
    except DataError as found:
        error = _named(found, tokens)
    except (ValueError, TypeError, RuntimeError) as found:
        error = found
    met.share(error)
    if not rows:
        return torch.full_like(lse, -torch.inf), torch.zeros_like(lse), logits
    # Where every logit of these rows is -Inf, the difference of the two would be no number.
    target = torch.where(lse == -torch.inf, -torch.inf, lse - nll)
    if not smoothing:
        own = (y >= start) & (y < start + rows)
        target = torch.where(own, target, 0)
    return lse, target, logits


def _of_all_rows(lse: Tensor, target: Tensor, met: Meeting) -> tuple[Tensor, Tensor]:
    """Return lse and target logits [N] over the rows of all ranks."""
    groups, largest = met.groups, lse.clone()
    all_reduce(met.op, largest, groups, distributed.ReduceOp.MAX, "the largest log-sum-exps")
    largest = torch.where(torch.isfinite(largest), largest, 0)
    sums = torch.stack([torch.exp(lse - largest), target])
    all_reduce(met.op, sums, groups, what="sums of exponentials")
    return largest + sums[0].log(), sums[1]


def _named(error: DataError, tokens: Tokens) -> DataError:
    """Return an error about a token of all ranks as one about a token of its rank."""
    if not tokens.apart:
        return error

    def named(match: re.Match[str]) -> str:
        place, token = divmod(int(match[2]), tokens.longest)
        return f"{match[1]}[{token}{match[3]} of rank {tokens.owners[place]}"

    return DataError(re.sub(r"\b([xy])\[(\d+)([^\]]*\])", named, str(error)))


class _RowSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, met: Meeting) -> Tensor:
        ctx.met, ctx.tokens = met, met.agreed
        return all_reduce(met.op, own.clone(), met.groups, what="sums of rows")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        apart, spread = ctx.tokens.apart, ctx.tokens.spread
        grad = all_reduce(ctx.met.op, grad.contiguous().clone(), apart, what="gradients of sums")
        return grad / spread, None


def sharded_row_sum(met: Meeting, own: Tensor) -> Tensor:
    """Return the sum over ranks of a tensor of each rank's own rows, with gradients to it.

    It has to be used alike by every rank, in the loss of its own tokens.
    """
    total: Tensor = _RowSum.apply(own, met)
    return total
