"""Cross-entropy of a linear head without its logits, by torch's names of arguments."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..functional.checks import FLOATS, INTEGERS, given
from ..shards import VocabularyShard, digest_of_values, meeting, sharded_head
from .counting import in_transform
from .head_call import NAME, HeadCall
from .renamed import renamed

__all__ = [
    "LinearCrossEntropyLoss",
    "TokenSums",
    "cross_entropy_sums",
    "linear_cross_entropy",
]

REDUCTIONS = ("mean", "sum", "none")
_OLD = {"x": "input", "head_weight": "linear_weight", "y": "target", "head_bias": "linear_bias"}


class TokenSums(NamedTuple):
    """Hold sums over the valid tokens, to be added over batches and ranks before dividing.

    Attributes:
        nll: Sum of negative log-likelihoods, differentiable.
        z: Sum of squared log-sum-exps, differentiable; 0 unless asked for.
        tokens: Their number, int64.
    """

    nll: Tensor
    z: Tensor
    tokens: Tensor


@renamed("cross_entropy_sums", _OLD, 3)
@sharded_head(NAME, "linear_weight")
def cross_entropy_sums(
    input: Tensor,
    linear_weight: Tensor | VocabularyShard,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    softcap: float = 0.0,
    memory_budget: int = 0,
    vocab_size: int | None = None,
    with_z: bool = False,
    check_finite: bool = False,
) -> TokenSums:
    """Sum negative log-likelihood, and optionally squared log-sum-exp, over the valid tokens.

    Arguments as for :func:`linear_cross_entropy`.

    >>> sums = cross_entropy_sums(torch.zeros(2, 3), torch.ones(4, 3), torch.tensor([1, -100]))
    >>> round(sums.nll.item(), 4), sums.tokens.item()
    (1.3863, 1)
    """
    call = HeadCall(
        input,
        linear_weight,
        target,
        linear_bias,
        None,
        ignore_index=ignore_index,
        vocab_size=vocab_size,
    )
    _tell_ranks(None, "sums", ignore_index, label_smoothing, 0.0)
    nll, lse = call.tokens(softcap, label_smoothing, memory_budget, check_finite)
    z = lse.square().sum() if with_z else nll.new_zeros(())
    return TokenSums(nll.sum(), z, call.valid().sum())


@renamed(NAME, _OLD, 3)
@sharded_head(NAME, "linear_weight")
def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor | VocabularyShard,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    softcap: float = 0.0,
    z_loss: float = 0.0,
    return_lse: bool = False,
    num_tokens: Tensor | float | None = None,
    memory_budget: int = 0,
    vocab_size: int | None = None,
    check_finite: bool = False,
) -> Any:
    r"""Compute the cross-entropy of ``input @ linear_weight.T + linear_bias`` without its logits.

    .. math:: \ell_i = w_{y_i} \big( (1 - s) nll_i + z \, lse_i^2 \big)
              + \frac{s}{V} \sum_j w_j (lse_i - z_{ij}), \quad
              L = \sum_i \ell_i \Big/ \sum_i w_{y_i}

    The first eight arguments are those of ``torch.nn.functional.linear_cross_entropy``, by name,
    order and meaning. It differs from torch in three things: the result is float32 for 16-bit
    inputs, the mean over no token is 0 and not NaN, and class probabilities are not supported.

    Args:
        input: [..., D] float, the head's input. Labels are used as they are: shift first where they
            are of the next token (:func:`next_token_labels`).
        linear_weight: [V, D] float; or on several ranks, a DTensor with ``Shard(0)`` or a
            :class:`ncfast.VocabularyShard`, each rank with the tokens it has (below).
        target: [...] integer class ids.
        linear_bias: [V] float; with a shard this rank's [V_r], or a DTensor sharded as the head is.
        weight: [V] float, w: what a token of each class counts for; None: 1. It has no gradient.
        reduction: ``"mean"`` (weighted), ``"sum"`` or ``"none"``.
        ignore_index: The label of tokens to leave out, any integer.
        label_smoothing: s in [0, 1]; rejected together with a soft-cap.
        softcap: c > 0 puts c tanh(z/c) in the place of z; 0 for none.
        z_loss: The weight z of the squared log-sum-exp.
        return_lse: Return (loss, lse [...]) instead, lse 0 where a token is ignored.
        num_tokens: What the mean divides by; None: the sum of this call's w. With gradient
            accumulation or several ranks give the number in the whole batch (over the number of
            ranks, where their gradients are averaged), and add the results. A number above 0, or a
            tensor of one without dimensions; on a GPU it is not read, and what is in it is not
            checked.
        memory_budget: See :func:`ncfast.functional.linear_nll_lse`.
        vocab_size: The number of classes, where the head has more rows, which pad the vocabulary.
            ``weight`` has as many entries.
        check_finite: Raise where a feature of a valid token is NaN or Inf. False lets it propagate
            as in torch, so that a ``GradScaler`` skips the step.

    Returns:
        A scalar ([...] for ``"none"``, 0 where ignored) in float32, or float64 if an input is.

    Under autocast it does what a linear layer does: ``input``, ``linear_weight`` and
    ``linear_bias`` are cast to the autocast dtype unless they are float64, and every gradient
    comes in its own tensor's dtype.

    With a head on several ranks each returns the loss of its own tokens, as one process with the
    whole head would. Its rows' gradient is the mean over ranks, as FSDP and DistributedDataParallel
    make it: see ``num_tokens``. Tokens that are the same on all ranks (tensor parallelism) stay
    where they are, others travel; the head never does. ``weight`` is whole on every rank. A rank
    without tokens has to call it, and its backward pass, like the others.

    Raises:
        ValueError, TypeError: A shape, dtype or option is wrong, or not the same on every rank.
        ncfast.DataError: A label is out of range; a feature is not finite (``check_finite``).
        ncfast.RankError: A rank that holds a part of the head did not come.

    >>> linear_cross_entropy(torch.zeros(2, 3), torch.ones(4, 3), torch.tensor([1, 2]))
    tensor(1.3863)
    """
    _check_options(reduction, label_smoothing, softcap, z_loss, num_tokens)
    call = HeadCall(
        input,
        linear_weight,
        target,
        linear_bias,
        weight,
        ignore_index=ignore_index,
        vocab_size=vocab_size,
    )
    _tell_ranks(weight, reduction, ignore_index, label_smoothing, z_loss)
    apart = weight is not None  # then smoothing is added here, of weighted logits
    nll, lse = call.tokens(softcap, 0.0 if apart else label_smoothing, memory_budget, check_finite)
    loss = call.weighted(nll, lse, label_smoothing) if apart else nll
    if z_loss:
        loss = loss + z_loss * call.shares(nll.dtype) * lse.square()
    loss = loss.reshape(call.shape) if reduction == "none" else loss.sum()
    if reduction == "mean":
        if num_tokens is None:
            total = call.shares(nll.dtype).sum() if apart else call.valid().sum()
            num_tokens = torch.where(total == 0, 1, total)
        loss = loss / num_tokens
    return (loss, lse.reshape(call.shape)) if return_lse else loss


def _check_options(
    reduction: str,
    label_smoothing: float,
    softcap: float,
    z_loss: float,
    num_tokens: Tensor | float | None,
) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"{NAME}: reduction is {reduction!r}; expected one of {REDUCTIONS}")
    if num_tokens is not None and reduction != "mean":
        raise ValueError(f"{NAME}: num_tokens is given with reduction {reduction!r}; expected mean")
    _check_number(num_tokens)
    if not 0 <= z_loss < math.inf:
        raise ValueError(f"{NAME}: z_loss is {z_loss}; expected 0 or more")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{NAME}: label_smoothing is {label_smoothing}; expected [0, 1]")
    if softcap and label_smoothing:
        raise ValueError(
            f"{NAME}: label_smoothing is {label_smoothing} and softcap is {softcap}; expected one "
            "of them to be 0: the sum of capped logits has no closed form"
        )


def _check_number(given_number: Tensor | float | None) -> None:
    number: Any = given_number
    if isinstance(number, Tensor):
        if number.ndim or number.dtype not in (*FLOATS, *INTEGERS):
            raise ValueError(f"{NAME}: num_tokens is {given(number)}; expected a tensor () of one")
        told = type(number) is Tensor and number.device.type == "cpu"  # others would be waited for
        if not told or torch.compiler.is_compiling() or in_transform():
            return
        number = number.item()
    if number is not None and not 0 < number < math.inf:
        raise ValueError(f"{NAME}: num_tokens is {number}; expected more than 0")


def _tell_ranks(
    weight: Tensor | None,
    reduction: str,
    ignore_index: int | None,
    label_smoothing: float,
    z_loss: float,
) -> None:
    """Say, where the head lies on several ranks, what has to be the same on all of them."""
    ranks = meeting()
    if ranks is not None:
        total = None if weight is None else float(weight.double().sum())
        options: dict[str, Any] = {"reduction": reduction, "z_loss": z_loss}
        options["ignore_index"] = ignore_index
        options |= {"label_smoothing": label_smoothing, "the sum of weight": total}
        options["the digest of weight"] = digest_of_values(weight)
        ranks.describe(**options)


class LinearCrossEntropyLoss(nn.Module):
    """Compute :func:`linear_cross_entropy` with fixed options.

    Called as ``loss(input, linear_weight, target, linear_bias=None)``: the head stays the model's,
    as it is often tied. (torch's module of this name holds a head of its own.)

    Args:
        weight: See :func:`linear_cross_entropy`; a buffer, which moves with the module.
        reduction, ignore_index, label_smoothing, softcap, z_loss, return_lse: See there.
        memory_budget, vocab_size, check_finite: See there.

    >>> loss = LinearCrossEntropyLoss(reduction="sum")
    >>> loss(torch.zeros(2, 3), torch.ones(4, 3), torch.tensor([1, 2]))
    tensor(2.7726)
    """

    weight: Tensor | None

    def __init__(
        self,
        *,
        weight: Tensor | None = None,
        reduction: str = "mean",
        ignore_index: int | None = -100,
        label_smoothing: float = 0.0,
        softcap: float = 0.0,
        z_loss: float = 0.0,
        return_lse: bool = False,
        memory_budget: int = 0,
        vocab_size: int | None = None,
        check_finite: bool = False,
    ) -> None:
        super().__init__()
        _check_options(reduction, label_smoothing, softcap, z_loss, None)
        self.register_buffer("weight", weight)
        self.options: dict[str, Any] = {
            "reduction": reduction,
            "ignore_index": ignore_index,
            "label_smoothing": label_smoothing,
            "softcap": softcap,
            "z_loss": z_loss,
            "return_lse": return_lse,
            "memory_budget": memory_budget,
            "vocab_size": vocab_size,
            "check_finite": check_finite,
        }

    def forward(
        self,
        input: Tensor,
        linear_weight: Tensor,
        target: Tensor,
        linear_bias: Tensor | None = None,
        num_tokens: Tensor | float | None = None,
    ) -> Any:
        """Return the loss."""
        head: dict[str, Any] = {"linear_bias": linear_bias, "weight": self.weight}
        head["num_tokens"] = num_tokens
        return linear_cross_entropy(input, linear_weight, target, **head, **self.options)

    def extra_repr(self) -> str:
        """Return the options, as they are printed."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())
