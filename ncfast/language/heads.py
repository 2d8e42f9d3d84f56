"""Where a language model's output matrix is, what goes into it, and whether that is all.

The features of a model are the vectors its output matrix multiplies. They are read on the way in,
and the forward pass stops there, so the logits [B, T, V] never exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .errors import LanguageError

_SOFTCAP_NAMES = ("final_logit_softcapping", "logits_soft_cap")


class _FeaturesReached(Exception):
    """Stop a forward pass at the head. Private: it never leaves this file."""


@dataclass(frozen=True)
class Head:
    """Name the output matrix of one model.

    Attributes:
        module: module whose input (or output) is the feature.
        captures: ``"input"`` when the module is the output matrix itself, ``"output"`` when it is
            the last layer before a matrix that is no module of its own.
        weight_owner: module holding the weight [V, D].
        bias_owner: module holding the bias [V].
        softcap: cap c of ``c * tanh(logits / c)``; 0 means none.
    """

    module: nn.Module
    captures: str
    weight_owner: nn.Module
    bias_owner: nn.Module
    softcap: float

    @property
    def weight(self) -> torch.Tensor:
        """Return the head weight [V, D], with a LoRA update added when there is one."""
        owner = self.weight_owner
        base = getattr(owner, "base_layer", None)
        if base is None:
            return owner.weight  # type: ignore[return-value]
        weight = base.weight
        if getattr(owner, "merged", False) or getattr(owner, "disable_adapters", False):
            return weight
        for adapter in owner.active_adapters:  # type: ignore[union-attr]
            if adapter in owner.lora_A:  # type: ignore[operator]
                weight = weight + owner.get_delta_weight(adapter)  # type: ignore[operator]
        return weight

    @property
    def bias(self) -> torch.Tensor | None:
        """Return the head bias [V], or None."""
        owner = getattr(self.bias_owner, "base_layer", self.bias_owner)
        return getattr(owner, "bias", None)


def find_head(model: nn.Module) -> Head:
    """Find the output matrix of a Hugging Face language model.

    Args:
        model: a masked or causal language model.

    Returns:
        The head.

    Raises:
        LanguageError: the model has no output matrix that this library knows how to read.
    """
    softcap = read_softcap(model.config)
    own_head = getattr(getattr(model, "lm_predictions", None), "lm_head", None)
    if own_head is not None and hasattr(own_head, "LayerNorm") and hasattr(own_head, "bias"):
        # DeBERTa with its own (non-legacy) head multiplies by the word embeddings in a matmul;
        # what transformers calls its output embedding there is the D x D transform before it.
        words = model.get_input_embeddings()  # type: ignore[operator]
        return Head(own_head.LayerNorm, "output", words, own_head, softcap)
    getter = getattr(model, "get_output_embeddings", None)
    module = getter() if getter is not None else None
    if module is None:
        raise LanguageError(
            f"{type(model).__name__} has no output embedding, so it has no language-model head; "
            "wanted a model for masked or causal language modelling"
        )
    head = Head(module, "input", module, module, softcap)
    weight = getattr(getattr(module, "base_layer", module), "weight", None)
    if isinstance(weight, torch.Tensor):
        refuse_sharded(model, weight)
    else:
        raise LanguageError(
            f"the head of {type(model).__name__} is a {type(module).__name__} without a "
            "weight [V, D]; such a head is not supported"
        )
    return head


def read_softcap(config: Any) -> float:
    """Read the logit soft-cap of a model configuration.

    Args:
        config: a transformers configuration.

    Returns:
        The cap, 0.0 when the model has none.
    """
    text_config = getattr(config, "text_config", None)
    for name in _SOFTCAP_NAMES:
        for holder in (config, text_config):
            value = getattr(holder, name, None)
            if value:
                return float(value)
    return 0.0


def run_to_head(model: nn.Module, head: Head, inputs: dict[str, Any]) -> torch.Tensor:
    """Run a model up to its head and return the head's input.

    Args:
        model: the language model, in whatever mode (train or eval) it is.
        head: result of :func:`find_head`.
        inputs: keyword arguments of the model's forward.

    Returns:
        Features [B, T, D], part of the autograd graph when gradients are on.

    Raises:
        LanguageError: the forward pass ended without ever reaching the head.
    """
    refuse_sharded(model, head.weight)
    captured: list[torch.Tensor] = []

    def keep_input(module: nn.Module, args: tuple, kwargs: dict) -> None:
        captured.append(args[0] if args else next(iter(kwargs.values())))
        raise _FeaturesReached

    def keep_output(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        captured.append(output)
        raise _FeaturesReached

    if head.captures == "input":
        handle = head.module.register_forward_pre_hook(keep_input, with_kwargs=True)
    else:
        handle = head.module.register_forward_hook(keep_output)
    try:
        # Not model(...): what wrappers hook around the pass would see it begin and never end.
        model.forward(**inputs)
    except _FeaturesReached:
        return captured[0]
    finally:
        handle.remove()
    raise LanguageError(
        f"the forward pass of {type(model).__name__} never called its head "
        f"({type(head.module).__name__}); such a model is not supported"
    )


def refuse_sharded(model: nn.Module, weight: torch.Tensor) -> None:
    """Refuse a head of which this rank holds a part only.

    Args:
        model: the language model, for its name.
        weight: the head's weight as it is now.

    Raises:
        LanguageError: the weight is a DTensor, or a piece that FSDP has flattened.
    """
    if hasattr(weight, "device_mesh"):
        how = f"sharded over ranks ({type(weight).__name__}, {weight.placements})"  # type: ignore[attr-defined]
    elif weight.dim() != 2:
        how = f"of shape {tuple(weight.shape)}, as FSDP flattens it"
    else:
        return
    raise LanguageError(
        f"the head weight of {type(model).__name__} is {how}; wanted all its rows [V, D] on every "
        "rank: wrap the model for ncfast before it is sharded, leave the head in the root's "
        "fully_shard, and compute the loss with ncfast.training.inside_forward; or gather the "
        "model (full_tensor) to measure it"
    )


def apply_head(features: torch.Tensor, head: Head) -> torch.Tensor:
    """Compute logits from features: the reference for :func:`check_head`, not for real work.

    Args:
        features: [..., D].
        head: the head.

    Returns:
        Logits [..., V], soft-capped when the model says so.
    """
    logits = nn.functional.linear(features, head.weight, head.bias)
    if head.softcap:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return logits


@torch.no_grad()
def check_head(model: nn.Module, head: Head, extra_inputs: dict[str, Any]) -> None:
    """Prove on a few tokens that features and head give the model's own logits.

    Some families scale, shift or otherwise change their logits after the matrix (Cohere, Granite,
    models in the mu-parametrisation). Metrics on their head rows would be about another
    classifier, so they are refused here and not measured wrongly.

    Args:
        model: the language model; its mode is restored afterwards.
        head: result of :func:`find_head`.
        extra_inputs: keyword arguments every forward of this model gets.

    Raises:
        LanguageError: the logits differ beyond rounding.
    """
    rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    device = head.weight.device
    input_ids = torch.linspace(0, rows - 1, min(8, rows)).long()[None].to(device)
    inputs = dict(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), **extra_inputs)
    was_training = model.training
    model.eval()
    try:
        features = run_to_head(model, head, inputs)
        logits = model(**inputs).logits
    finally:
        model.train(was_training)
    expected_width = head.weight.shape[1]
    if features.shape != (*input_ids.shape, expected_width):
        raise LanguageError(
            f"the head of {type(model).__name__} takes features of shape {tuple(features.shape)} "
            f"for {tuple(input_ids.shape)} tokens; wanted width {expected_width}: this head is "
            "not supported"
        )
    ours = apply_head(features, head)
    tolerance = 1e-4 if logits.dtype in (torch.float32, torch.float64) else 3e-2
    scale = float(logits.abs().max()) if ours.shape == logits.shape else 0.0
    difference = float((ours - logits).abs().max()) if ours.shape == logits.shape else float("inf")
    if not difference <= tolerance * scale + 1e-7:
        raise LanguageError(
            f"this head is not supported: features times head weight differ from the logits of "
            f"{type(model).__name__} by {difference:.3g} (largest logit {scale:.3g}); the model "
            "scales or changes its logits after the output matrix"
        )
