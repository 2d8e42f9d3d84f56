"""What the modules of a head return in a forward pass whose logits are lazy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..language.heads import Head
from .lazy_logits import LazyFeatures, LazyLogits, autocast_now


class Handle(Protocol):
    """Name what of the model's handle, ``applied.Applied``, a module of the head asks for."""

    model: nn.Module
    head: Head
    active: bool

    @property
    def loss(self) -> Callable[..., Any]:
        """Compute the loss from lazy logits."""
        ...


class HeadPass:
    """Be the forward pass of a module of the head."""

    def __init__(self, applied: Handle, module: nn.Module) -> None:
        self.applied, self.module = applied, module
        self.forward = module.forward
        self.before = vars(module).get("forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return lazy logits in a forward pass with labels, and the module's output elsewhere."""
        applied, head = self.applied, self.applied.head
        if not applied.active:
            return self.forward(*args, **kwargs)
        if head.captures == "output":
            return LazyFeatures(self.forward(*args, **kwargs), applied.loss)
        features = args[0] if args else next(iter(kwargs.values()))
        weight, bias = self.matrix()
        if not torch.is_grad_enabled():  # the class's loss may be computed where it is again
            features, weight = features.detach(), weight.detach()
            bias = None if bias is None else bias.detach()
        now = autocast_now(features.device.type)
        return LazyLogits(features, weight, bias, applied.loss, autocast=now)

    def matrix(self) -> tuple[Tensor, Tensor | None]:
        """Return the matrix [V, D] and the bias [V], or None, that the module stands for."""
        head = self.applied.head
        owner: Any = head if head.module is self.module else self.module
        return owner.weight, owner.bias

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Go with a copy of the model; a copy of the module alone is a module like any other."""
        if id(self.applied.model) not in memo:
            return copy.deepcopy(self.forward, memo)
        copied = memo[id(self)] = object.__new__(HeadPass)
        vars(copied).update(copy.deepcopy(vars(self), memo))
        return copied


def matrices(head: Head) -> list[nn.Module]:
    """Return the modules whose product with features makes logits.

    That is one, or several inside an adapter of the head: its base layer and the second matrix of
    LoRA. The adapter's own forward pass then does its dropout, scales and sums; that of DoRA
    multiplies logits class by class, which its matrix does as well.
    """
    if len(getattr(head.module, "lora_magnitude_vector", ())):
        return [head.module]
    inner = [module for module in head.module.modules() if module is not head.module]
    rows = [m for m in inner if getattr(m, "out_features", None) == len(head.weight)]
    return rows or [head.module]
