"""The loss without logits beside the model's own, on a few dozen tokens of what is trained on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import DataError
from ..language import LanguageModel
from ..language.head_check import tolerance_of
from ..language.inspection import kind_of
from ..language.labels import IGNORE
from ..language.modes import eval_mode
from ..losses import linear_cross_entropy

TOKENS = 48


@torch.no_grad()
def check_loss(
    model: LanguageModel, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, when: str
) -> tuple[float, float]:
    """Compare the loss that is trained with that of the model's own forward pass; return both.

    Both are computed without dropout, outside of autocast, on at most 48 tokens of one row; mode
    and random state stay. Ids, mask and labels are [B, T] int64; a label is the class a position
    predicts or -100. Two NaN where no row predicts anything; a DataError where they differ beyond
    rounding.
    """
    row, end = _some_tokens(labels)
    if row < 0:
        return math.nan, math.nan
    given = (input_ids, attention_mask, labels)
    ids, mask, y = (x[row : row + 1, :end].to(model.device, copy=True) for x in given)
    if model.kind == "causal":
        y[:, -1] = IGNORE  # the token that the last position predicts may be cut off
    device = model.device.type
    with (
        eval_mode(model.model),
        torch.random.fork_rng([model.device] if device == "cuda" else []),
        torch.autocast(device, enabled=False),
    ):
        x, weight, bias = model.scaled(model.features(ids, mask).flatten(0, 1))
        ours = linear_cross_entropy(
            x, weight, y.flatten(), linear_bias=bias, softcap=model.softcap, check_finite=True
        )
        own, logits = own_loss(model, ids, mask, y)
    allowed = tolerance_of(weight, logits) * (1 + float(logits.abs().max()))
    if not abs(float(ours) - float(own)) <= allowed:
        raise DataError(
            f"{when}: the loss of {int((y != IGNORE).sum())} tokens is {float(ours):.6g}, but "
            f"{float(own):.6g} by the forward pass of {type(model.model).__name__} itself; "
            f"expected a difference of at most {allowed:.2g}, as rounding explains: the model's "
            "loss is another one than the cross-entropy of its head"
        )
    return float(ours), float(own)


def own_loss(
    model: LanguageModel, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the loss that a model's own forward pass gives, and its logits; see
    :func:`check_loss`.

    Where the class computes none of text alone, or shifts labels although the model was found to
    see the next token, it is the cross-entropy of its logits.
    """
    inputs = dict(input_ids=input_ids, attention_mask=attention_mask, **model._extra_inputs)
    theirs = labels
    if model.kind == "causal":  # transformers shifts labels itself
        theirs = torch.full_like(labels, IGNORE)
        theirs[:, 1:] = labels[:, :-1]
    output = model.model.forward(**inputs)
    logits = output.logits
    plain = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE
    )
    if model.kind != kind_of(model.model):
        return plain, logits
    try:
        loss = model.model.forward(**inputs, labels=theirs).loss
    except (TypeError, ValueError, IndexError):
        return plain, logits  # a loss of more than text (Git's captions have an image before them)
    if model.kind == "causal" and loss is not None:
        # BartForCausalLM and its like do not shift: what they are given is the next token already.
        unshifted = model.model.forward(**inputs, labels=labels).loss
        loss = min(loss, unshifted, key=lambda value: abs(float(value) - float(plain)))
    return plain if loss is None else loss, logits


def _some_tokens(labels: Tensor) -> tuple[int, int]:
    """Return a row and how many tokens of it to take, with as many labels as there are."""
    valid = labels != IGNORE
    few = valid[:, : TOKENS - 1].sum(1)
    if int(few.max()) > 0:
        return int(few.argmax()), min(TOKENS, labels.shape[1])
    if not bool(valid.any()):
        return -1, 0
    row = int(valid.any(1).int().argmax())
    return row, int(valid[row].nonzero()[0]) + 2
