"""Which layers are computed again in the backward pass instead of keeping their activations."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from ..language import LanguageError


def recomputable_layers(model: Any) -> list[Any]:
    """List the layers of a transformers model that can be recomputed, first to last.

    Args:
        model: a transformers model, possibly inside peft.

    Returns:
        The layers.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def set_recompute(model: Any, layers: int) -> int:
    """Recompute the first layers of a model in backward; the others keep their activations.

    Args:
        model: a transformers model, possibly inside peft.
        layers: how many; more than there are means all.

    Returns:
        How many layers are recomputed now.

    Raises:
        LanguageError: a negative number, or the model cannot recompute.
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
