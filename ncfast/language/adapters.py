"""The matrix a head multiplies by with peft around it: exact, with gradients, or rejected."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .errors import LanguageError


def effective_weight(module: nn.Module) -> torch.Tensor:
    """Return the matrix [V, D] that a head or an embedding multiplies by or looks up.

    LoRA (with or without DoRA, merged or not, several adapters at once), ``modules_to_save``,
    trainable tokens and what else can state its update as a matrix are exact, and differentiable in
    the parameters that make the matrix; another adapter is a LanguageError. Where nothing changes
    the parameter, it is returned itself.
    """
    if hasattr(module, "token_adapter"):
        return _with_tokens(module.token_adapter)
    if _saves_modules(module):
        return effective_weight(_saved_module(module))
    if hasattr(module, "trainable_tokens_delta"):
        return _with_tokens(module)
    if not hasattr(module, "base_layer"):
        return module.weight  # type: ignore[return-value]
    weight = effective_weight(module.base_layer)  # type: ignore[arg-type]
    if not _is_active(module):
        return weight
    base, names = weight, active_adapters(module)
    for name in names:
        update = _update_of(module, name)
        magnitude = _magnitude_of(module, name)
        if magnitude is None:
            weight = weight + update
            continue
        # peft treats the norm as a constant in the backward pass, and so do we.
        norm = torch.linalg.norm((base + update).detach(), dim=1)
        ratio = (magnitude / norm.to(magnitude.dtype))[:, None].to(base.dtype)
        weight = weight + (ratio - 1) * base + ratio * update
    return weight


def effective_bias(module: nn.Module) -> torch.Tensor | None:
    """Return the bias [V] that a head adds, with what ``lora_bias`` adds to it, or None."""
    if hasattr(module, "token_adapter") or hasattr(module, "trainable_tokens_delta"):
        # peft leaves the bias of a head out while it trains tokens of it.
        inner: Any = getattr(module, "token_adapter", module)
        return None if _is_active(inner) else effective_bias(inner.base_layer)
    if _saves_modules(module):
        return effective_bias(_saved_module(module))
    if not hasattr(module, "base_layer"):
        return getattr(module, "bias", None)
    bias = effective_bias(module.base_layer)  # type: ignore[arg-type]
    if not _is_active(module):
        return bias
    for name in active_adapters(module):
        layers: Any = getattr(module, "lora_B", {})
        added = getattr(layers[name], "bias", None) if name in layers else None
        if added is not None:
            added = added * module.scaling[name]  # type: ignore[index]
            bias = added if bias is None else bias + added
    return bias


def active_adapters(module: nn.Module) -> list[str]:
    """Return the active adapters that a peft layer holds parameters of, in the order of use."""
    held = [getattr(module, name, ()) for name in getattr(module, "adapter_layer_names", ())]
    return [name for name in module.active_adapters if any(name in part for part in held)]  # type: ignore[union-attr]


def _with_tokens(layer: Any) -> torch.Tensor:
    base = effective_weight(layer.base_layer)
    if not _is_active(layer) or not layer.active_adapters:
        return base
    return layer.get_merged_weights(layer.active_adapters)


def _saves_modules(module: Any) -> bool:
    return hasattr(module, "modules_to_save") and hasattr(module, "original_module")


def _saved_module(module: Any) -> nn.Module:
    names = [name for name in module.active_adapters if name in module.modules_to_save]
    if module.disable_adapters or not names:
        return module.original_module
    return module.modules_to_save[names[0]]


def _is_active(layer: Any) -> bool:
    """Return whether a layer adds anything of its own to what it wraps."""
    return not (getattr(layer, "merged", False) or getattr(layer, "disable_adapters", False))


def _update_of(layer: Any, name: str) -> torch.Tensor:
    compute = getattr(layer, "get_delta_weight", None)
    if compute is None:
        kind = f"{type(layer).__module__.rsplit('.', 2)[-2]} ({type(layer).__name__})"
        raise LanguageError(
            f"the head is adapted by {kind}, adapter {name!r}, whose update is no matrix added to "
            "the head's; expected LoRA, or the adapter merged (merge_and_unload)"
        )
    return compute(name)


def _magnitude_of(layer: Any, name: str) -> torch.Tensor | None:
    magnitudes = getattr(layer, "lora_magnitude_vector", {})
    return magnitudes[name].weight if name in magnitudes else None
