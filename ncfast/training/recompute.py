"""Which layers are computed again in the backward pass instead of keeping their activations."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from ..language import LanguageError


def recomputable_layers(model: Any) -> list[Any]:
    """List the layers of a transformers model that can be recomputed, first to last."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def set_recompute(model: Any, layers: int) -> int:
    """Recompute the first layers of a model in backward, at most all; return how many are.

    A negative number, or a model that cannot recompute, is a LanguageError.
    """
    if layers < 0:
        raise LanguageError(f"recompute={layers}; expected 0 layers or more")
    found = recomputable_layers(model)
    if layers and not found:
        raise LanguageError(
            f"{type(model).__name__} has no layer that can be recomputed; expected recompute=0"
        )
    # The layers' own switch, set one by one: transformers' turns all of them on.
    recompute = partial(checkpoint, use_reentrant=False)
    for number, layer in enumerate(found):
        layer.gradient_checkpointing = number < layers
        layer._gradient_checkpointing_func = recompute
    return min(layers, len(found))
