"""Cross-entropy of a linear head, without its logits, reduced over the tokens that count."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import functional as F

__all__ = ["TokenSums", "cross_entropy_sums", "linear_cross_entropy", "next_token_labels"]


class TokenSums(NamedTuple):
    """Hold sums over the tokens that count, to be added over batches and ranks before dividing.

    Attributes:
        nll: Sum of negative log-likelihoods, differentiable.
        z: Sum of squared log-sum-exps, differentiable; 0 unless asked for.
        tokens: Their number, int64.
    """

    nll: Tensor
    z: Tensor
    tokens: Tensor


def cross_entropy_sums(
    x: Tensor,
    head_weight: Tensor,
    y: Tensor,
    head_bias: Tensor | None = None,
    *,
    softcap: float = 0.0,
    label_smoothing: float = 0.0,
    memory_budget: int = 0,
    vocab_size: int | None = None,
    with_z: bool = False,
) -> TokenSums:
    """Sum negative log-likelihood, and optionally squared log-sum-exp, over the tokens that count.

    Arguments as for :func:`linear_cross_entropy`.

    >>> sums = cross_entropy_sums(torch.zeros(2, 3), torch.ones(4, 3), torch.tensor([1, -100]))
    >>> round(sums.nll.item(), 4), sums.tokens.item()
    (1.3863, 1)
    """
    nll, lse = F.linear_cross_entropy(
        x.reshape(-1, x.shape[-1]),
        head_weight,
        y.reshape(-1),
        head_bias,
        softcap,
        label_smoothing=label_smoothing,
        memory_budget=memory_budget,
        vocab_size=vocab_size,
    )
    z = lse.square().sum() if with_z else nll.new_zeros(())
    return TokenSums(nll.sum(), z, (y != F.IGNORE_INDEX).sum())


def linear_cross_entropy(
    x: Tensor,
    head_weight: Tensor,
    y: Tensor,
    head_bias: Tensor | None = None,
    *,
    softcap: float = 0.0,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    num_tokens: Tensor | float | None = None,
    memory_budget: int = 0,
    vocab_size: int | None = None,
) -> Tensor:
    r"""Compute the mean cross-entropy of the tokens that count.

    .. math:: L = \frac1M \sum_i \left( nll_i + z \, lse_i^2 \right)

    Args:
        x: [..., D] float features: the head's input. Labels are used as they are: shift first where
            they are of the next token (:func:`next_token_labels`).
        head_weight: [V, D] float.
        y: [...] int64 classes, -100 to ignore.
        head_bias: [V] float.
        softcap, label_smoothing, memory_budget, vocab_size: See
            :func:`ncfast.functional.linear_cross_entropy`.
        z_loss: The weight z of the squared log-sum-exp.
        num_tokens: M; None for the tokens of this call that count. With gradient accumulation or
            several ranks give the number in the whole batch (over the number of ranks, where their
            gradients are averaged), and add the results.

    Returns:
        A scalar in float32 (float64 for float64); 0, not NaN, if no token counts.

    >>> linear_cross_entropy(torch.zeros(2, 3), torch.ones(4, 3), torch.tensor([1, 2]))
    tensor(1.3863)
    """
    if not z_loss >= 0:
        raise ValueError(f"linear_cross_entropy: z_loss is {z_loss}; expected 0 or more")
    sums = cross_entropy_sums(
        x,
        head_weight,
        y,
        head_bias,
        softcap=softcap,
        label_smoothing=label_smoothing,
        memory_budget=memory_budget,
        vocab_size=vocab_size,
        with_z=z_loss > 0,
    )
    total = sums.nll + z_loss * sums.z if z_loss else sums.nll
    return total / (sums.tokens.clamp(min=1) if num_tokens is None else num_tokens)


def next_token_labels(input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Return each position's next token as its label, -100 where there is none or it is padding.

    Args:
        input_ids: [..., T] int64.
        attention_mask: [..., T], 0 at padding; None: all count.

    Returns:
        [..., T] int64.

    >>> next_token_labels(torch.tensor([[5, 6, 7, 0]]), torch.tensor([[1, 1, 1, 0]])).tolist()
    [[6, 7, -100, -100]]
    """
    labels = torch.full_like(input_ids, F.IGNORE_INDEX)
    labels[..., :-1] = input_ids[..., 1:]
    if attention_mask is not None:
        labels[..., :-1].masked_fill_(attention_mask[..., 1:] == 0, F.IGNORE_INDEX)
    return labels
