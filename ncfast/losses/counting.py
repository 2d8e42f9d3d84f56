"""Where a term may be called in training mode: what it counts there is counted once, for good."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["in_transform", "require_counted_once"]


def in_transform() -> bool:
    """Return whether a transform of torch.func runs: tensors made within are dead after it."""
    return torch._C._functorch.maybe_current_level() is not None


def require_counted_once(name: str, module: nn.Module, running: bool) -> None:
    """Raise where a module in training mode would count a batch twice, or lose it.

    Args:
        name: who is called.
        module: what counts.
        running: whether its values depend on earlier calls.
    """
    if torch.compiler.is_compiling():
        return
    if torch._C._current_graph_task_id() >= 0:
        raise RuntimeError(
            f"{name}: called within a backward pass, as activation checkpointing calls what "
            "it computes again: the batch would be counted twice; expected the term outside "
            "of checkpoint()"
        )
    if in_transform():
        raise RuntimeError(
            f"{name}: called in training mode within a transform of torch.func (vmap, grad, ...), "
            "whose tensors are dead after it, while a batch is counted for good; expected eval(), "
            "in which nothing is counted, or the call outside"
        )
    if running and getattr(module, "_is_replica", False):
        raise RuntimeError(
            f"{name}: called in training mode on a replica of nn.DataParallel, which is thrown "
            "away with what it has counted; expected DistributedDataParallel, or the term outside "
            'of DataParallel, or means="batch" and a constant weight'
        )
