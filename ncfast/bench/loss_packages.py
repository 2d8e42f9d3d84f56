"""Other implementations of a linear head's loss: torch's own, its compiler's, and two packages'."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .contract import Absent, Prepare, Prepared
from .head_losses import LOSS, MASKED, HeadLoss, of_every_kind, plain

__all__ = ["COMPILED", "CUT_CROSS_ENTROPY", "LIGER", "TORCH_FUSED"]

_ONCE = (LOSS, MASKED)  # a memory budget is ncfast's own setting


def _warm(made: Prepared) -> Prepared:
    """Compile now: the first call is not to be taken for a slow one."""
    try:
        made.call()
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise Absent(f"fails on this CPU: {type(error).__name__}: {first}") from None
    return made


def _compiled(loss: HeadLoss) -> Prepared:
    return _warm(loss.prepared(torch.compile(plain, dynamic=False), "inductor, all logits kept"))


def _fused(loss: HeadLoss) -> Prepared:
    options: Any = getattr(torch.nn, "LinearCrossEntropyOptions", None)
    if options is None:
        raise Absent(f"needs torch 2.13 or newer; this is {torch.__version__}")

    def compute(x: Tensor, head_weight: Tensor, y: Tensor, head_bias: Tensor | None) -> Tensor:
        # Named here and not above: older torch has no such function, and mypy may see one.
        function: Any = torch.nn.functional.linear_cross_entropy
        value: Tensor = function(x, head_weight, y, linear_bias=head_bias, options=options())
        return value

    return loss.prepared(compute, "chunked, its automatic settings; gradients made in forward")


def _cut(loss: HeadLoss) -> Prepared:
    try:
        from cut_cross_entropy import linear_cross_entropy
    except ImportError as error:
        raise Absent(f"cannot be imported: {error}") from None
    if "head_bias" in loss.leaves:
        raise Absent("takes no bias of the head")

    def compute(x: Tensor, head_weight: Tensor, y: Tensor, _: Tensor | None) -> Tensor:
        value: Tensor = linear_cross_entropy(x, head_weight, y, impl="torch_compile")
        return value

    return _warm(loss.prepared(compute, "its torch.compile path; the other needs a GPU"))


def _liger(loss: HeadLoss) -> Prepared:
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError as error:
        raise Absent(f"cannot be imported: {error}") from None
    module = LigerFusedLinearCrossEntropyLoss()

    def compute(x: Tensor, head_weight: Tensor, y: Tensor, head_bias: Tensor | None) -> Tensor:
        value: Tensor = module(head_weight, x, y, head_bias)
        return value

    return _warm(loss.prepared(compute))


COMPILED: dict[str, Prepare] = of_every_kind(_compiled, *_ONCE)
TORCH_FUSED: dict[str, Prepare] = of_every_kind(_fused, *_ONCE)
CUT_CROSS_ENTROPY: dict[str, Prepare] = of_every_kind(_cut, *_ONCE)
LIGER: dict[str, Prepare] = of_every_kind(_liger, *_ONCE)
