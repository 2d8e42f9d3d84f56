"""One whole forward pass of a few tokens, watched from the head on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .errors import LanguageError
from .heads import Head, on_features


@dataclass
class Pass:
    """Hold what one forward pass showed."""

    features: torch.Tensor  # what the head was given
    logits: torch.Tensor  # what the model made of it
    # parameters and buffers that were read from the head on, by name
    parts: dict[str, torch.Tensor]
    modules: list[nn.Module]  # modules that were called from the head on


class _Reads(TorchDispatchMode):
    """Note which of some tensors operations read."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.tensors = tensors
        self._names = {address(tensor): name for name, tensor in reversed(tensors.items())}
        self.found: dict[str, torch.Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        for value in tree_leaves((args, kwargs or {})):
            name = self._names.get(address(value)) if isinstance(value, torch.Tensor) else None
            if name is not None:
                self.found[name] = self.tensors[name]
        return func(*args, **(kwargs or {}))


def address(tensor: torch.Tensor) -> int | None:
    """Return where a tensor's storage begins, or None where it has none."""
    try:
        return tensor.untyped_storage().data_ptr() or None
    except (RuntimeError, NotImplementedError):  # a tensor subclass without a storage
        return None


def run_whole(model: nn.Module, head: Head, inputs: dict[str, Any]) -> Pass:
    """Run a whole forward pass, and note what is read between features and logits.

    A pass that never reaches the head, or gives no logits, is a LanguageError.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    reads = _Reads(named | dict(model.named_buffers(remove_duplicate=False)))
    seen: list[torch.Tensor] = []
    modules: list[nn.Module] = []

    def reached(features: torch.Tensor) -> None:
        if not seen:
            seen.append(features.clone())
            modules.append(head.module)
            reads.__enter__()

    def called(module: nn.Module, args: Any) -> None:
        if seen:
            modules.append(module)

    handles = [on_features(head, reached), register_module_forward_pre_hook(called)]
    try:
        output = model.forward(**inputs)
    finally:
        if seen:
            reads.__exit__(None, None, None)
        for handle in handles:
            handle.remove()
    if not seen:
        raise LanguageError(
            f"the forward pass of {type(model).__name__} never called its head "
            f"({type(head.module).__name__}); such a model is not supported"
        )
    logits = getattr(output, "logits", None)
    if not isinstance(logits, torch.Tensor):
        raise LanguageError(
            f"the output of {type(model).__name__} has no logits; such a model is not supported"
        )
    with reads:  # what we read of the head ourselves
        _ = head.weight, head.bias
    return Pass(seen[0], logits, reads.found, modules)
