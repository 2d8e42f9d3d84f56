"""What all providers of a loss share: which tensors it is of, and the gradients asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .contract import Inputs, Prepare, Prepared

__all__ = ["BUDGET", "LOSS", "MASKED", "HeadLoss", "differentiated", "of_every_kind", "plain"]

LOSS = "linear_cross_entropy forward and backward"
BUDGET = f"{LOSS} with a budget"
MASKED = f"{LOSS} with 15 % labels"


@dataclass(frozen=True)
class HeadLoss:
    """Hold one loss of a linear head: its leaves by name, labels and, for ncfast, the budget."""

    leaves: dict[str, Tensor]
    y: Tensor
    budget: int = 0

    def prepared(self, compute: Callable[..., Tensor], note: str = "") -> Prepared:
        """Return how to differentiate ``compute(x, head_weight, y, head_bias or None)``."""

        def loss(x: Tensor, head_weight: Tensor, head_bias: Tensor | None = None) -> Tensor:
            return compute(x, head_weight, self.y, head_bias)

        return differentiated(loss, self.leaves, note)


def _unmasked(inputs: Inputs) -> HeadLoss:
    return HeadLoss({"x": inputs.x, "head_weight": inputs.classifier}, inputs.y)


def _with_budget(inputs: Inputs) -> HeadLoss:
    # A quarter of the logits in float32: one byte for each.
    return HeadLoss(_unmasked(inputs).leaves, inputs.y, inputs.tokens * inputs.classes)


def _masked(inputs: Inputs) -> HeadLoss:
    return HeadLoss(_unmasked(inputs).leaves | {"head_bias": inputs.head_bias}, inputs.masked_y)


_KINDS = {LOSS: _unmasked, BUDGET: _with_budget, MASKED: _masked}


def of_every_kind(prepare: Callable[[HeadLoss], Prepared], *kinds: str) -> dict[str, Prepare]:
    """Return a provider's table: how it computes each kind of loss, or those named."""
    return {kind: _prepare(prepare, _KINDS[kind]) for kind in kinds or _KINDS}


def _prepare(prepare: Callable[[HeadLoss], Prepared], kind: Callable[..., HeadLoss]) -> Prepare:
    return lambda inputs: prepare(kind(inputs))


def differentiated(
    loss: Callable[..., Tensor], leaves: Mapping[str, Tensor], note: str = ""
) -> Prepared:
    """Return a call that computes a loss and, in fresh memory, the gradients of its leaves."""

    def call() -> tuple[Tensor, ...]:
        given = [leaf.detach().requires_grad_() for leaf in leaves.values()]
        value = loss(*given)
        return value.detach(), *torch.autograd.grad(value, given)

    def results(out: Any) -> dict[str, Tensor]:
        return dict(zip(("loss", *(f"grad {name}" for name in leaves)), out, strict=True))

    return Prepared(call, results, note=note)


def plain(x: Tensor, head_weight: Tensor, y: Tensor, head_bias: Tensor | None) -> Tensor:
    """Return the mean loss as everybody writes it: all logits, then torch's cross-entropy."""
    logits = torch.nn.functional.linear(x, head_weight, head_bias)
    return torch.nn.functional.cross_entropy(logits, y)
