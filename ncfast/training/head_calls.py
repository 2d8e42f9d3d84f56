"""What the modules of a head return in a forward pass whose logits are lazy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

from torch import nn

from ..language.errors import LanguageError
from ..language.heads import Head
from .lazy_logits import LazyFeatures, LazyLogits


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
        owner: Any = head if head.module is self.module else self.module
        if owner is head:
            _reject_dropout(applied.model, self.module)
        return LazyLogits(features, owner.weight, owner.bias, applied.loss)

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


def _reject_dropout(model: nn.Module, module: nn.Module) -> None:
    """Raise where a module draws dropout, which its matrix knows nothing of."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Dropout) and part.p > 0 and part.training:
            raise LanguageError(
                f"the head of {type(model).__name__} has dropout inside ({name}, p={part.p}); "
                "expected 0 for such a head: set lora_dropout=0"
            )
