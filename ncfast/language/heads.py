"""Where a language model's output matrix is, what goes into it, and whether that is all.

The features of a model are the vectors its output matrix multiplies. They are read on the way in,
and the forward pass stops there, so the logits [B, T, V] never exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from .adapters import effective_bias, effective_weight
from .errors import ROAD, LanguageError

_SOFTCAP_NAMES = ("final_logit_softcapping", "logits_soft_cap")


class _FeaturesReached(Exception):
    """Stop a forward pass at the head. Private: it never leaves this file."""


@dataclass(frozen=True)
class Head:
    """Name the output matrix of one model, and what becomes of its product.

    The logits are ``c * tanh(s * (x @ W.T + b) / c)``, or ``s * (x @ W.T + b)`` without a cap.
    """

    module: nn.Module  # module whose input (or output) is the feature
    # ``"input"`` when the module is the output matrix itself, ``"output"`` when it is the last
    # layer before a matrix that is no module of its own
    captures: str
    weight_owner: nn.Module  # module holding the weight [V, D]
    bias_owner: nn.Module  # module holding the bias [V]
    softcap: float  # cap c; 0 means none
    scale: float = 1.0  # constant s that the model multiplies its logits by
    # module and name of a bias [V] that is added outside of ``bias_owner``
    outside_bias: tuple[nn.Module, str] | None = None

    @property
    def weight(self) -> torch.Tensor:
        """Return the head weight [V, D], with what adapters add to it."""
        return effective_weight(self.weight_owner)

    @property
    def bias(self) -> torch.Tensor | None:
        """Return the head bias [V], or None."""
        bias = effective_bias(self.bias_owner)
        if self.outside_bias is None:
            return bias
        owner, name = self.outside_bias
        outside: torch.Tensor = getattr(owner, name)
        return outside if bias is None else bias + outside


def find_head(model: nn.Module) -> Head:
    """Find the output matrix of a Hugging Face model, by structure and configuration.

    :func:`head_check.prove` asks the model itself. No matrix that can be read is a LanguageError.
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
            f"expected a model for masked or causal language modelling: for another, {ROAD}"
        )
    weight = matrix_of(module, f"the head of {type(model).__name__}")
    reject_sharded(model, weight)
    if not weight.is_floating_point() or weight.element_size() < 2:
        raise LanguageError(
            f"the head weight of {type(model).__name__} is quantised ({weight.dtype}); expected "
            "float64, float32, bfloat16 or float16: load the model dequantised"
        )
    return Head(module, "input", module, module, softcap)


def check_head(model: Any, head: Head, is_embedding: bool) -> None:
    """Raise where a model has another head than the one that was found, as of an adapter that was
    put around it since features and matrix would know nothing.
    """
    if head.captures != "input":
        return
    now = model.get_input_embeddings() if is_embedding else model.get_output_embeddings()
    if now is not head.module:
        raise LanguageError(
            f"the head of {type(model).__name__} is another module ({type(now).__name__}) than "
            "when it was wrapped (an adapter, or other rows, have come since); expected it to be "
            "wrapped again: LanguageModel.from_pretrained_model"
        )


def embedding_as_head(model: Any, name: str) -> Head:
    """Let the word embeddings of a bare encoder stand in for a head, or raise."""
    words = model.get_input_embeddings()
    if words is None or matrix_of(words, f"the word embedding of {name}").dim() != 2:
        raise LanguageError(
            f"{name} ({type(model).__name__}) has no word embeddings [V, D] to stand in for a "
            "head; expected a text encoder"
        )
    # An embedding has no bias; the same module serves as weight and bias owner.
    return Head(words, "input", words, words, 0.0)


def matrix_of(module: nn.Module, subject: str) -> torch.Tensor:
    """Return the matrix [V, D] of a head or an embedding, adapters included.

    LanguageError, naming ``subject``, where there is none or an adapter does not tell its own.
    """
    try:
        weight = effective_weight(module)
    except (AttributeError, KeyError, TypeError, RuntimeError, NotImplementedError) as error:
        inner = getattr(module, "base_layer", None)
        raise LanguageError(
            f"{subject} is a {type(module).__name__}"
            f"{f' around a {type(inner).__name__}' if inner is not None else ''} "
            f"({type(module).__module__}) without a weight [V, D]; such a head is not supported"
        ) from error
    if not isinstance(weight, torch.Tensor):
        raise LanguageError(
            f"{subject} is a {type(module).__name__} without a weight [V, D]; "
            "such a head is not supported"
        )
    return weight


def read_softcap(config: Any) -> float:
    """Read the logit soft-cap of a transformers configuration; 0.0 for none."""
    text_config = getattr(config, "text_config", None)
    for name in _SOFTCAP_NAMES:
        for holder in (config, text_config):
            value = getattr(holder, name, None)
            if value:
                return float(value)
    return 0.0


def run_to_head(model: nn.Module, head: Head, inputs: dict[str, Any]) -> torch.Tensor:
    """Run a model up to its head and return the features [B, T, D] that enter it.

    The mode stays; the features are part of the autograd graph when gradients are on. A pass that
    ends without reaching the head is a LanguageError.
    """
    reject_sharded(model, head.weight)
    captured: list[torch.Tensor] = []

    def keep(features: torch.Tensor) -> None:
        captured.append(features)
        raise _FeaturesReached

    handle = on_features(head, keep)
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


def on_features(head: Head, function: Callable[[torch.Tensor], None]) -> RemovableHandle:
    """Call a function with the features [B, T, D] whenever a forward pass reaches the head."""

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        function(args[0] if args else next(iter(kwargs.values())))

    def after(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        function(output)

    if head.captures == "input":
        return head.module.register_forward_pre_hook(before, with_kwargs=True)
    return head.module.register_forward_hook(after)


def reject_sharded(model: nn.Module, weight: torch.Tensor) -> None:
    """Raise where this rank holds a part of the head: a DTensor, or what FSDP has flattened."""
    if hasattr(weight, "device_mesh"):
        how = f"sharded over ranks ({type(weight).__name__}, {weight.placements})"  # type: ignore[attr-defined]
    elif weight.dim() != 2:
        how = f"of shape {tuple(weight.shape)}, as FSDP flattens it"
    else:
        return
    raise LanguageError(
        f"the head weight of {type(model).__name__} is {how}; expected all its rows [V, D] on "
        "every rank: wrap the model for ncfast before it is sharded, leave the head in the root's "
        "fully_shard, and compute the loss with ncfast.training.inside_forward; or gather the "
        "model (full_tensor) to measure it"
    )


def after_product(scores: torch.Tensor, head: Head) -> torch.Tensor:
    """Scale and soft-cap what matrix and bias give [..., V]."""
    logits = scores if head.scale == 1.0 else scores * head.scale
    return head.softcap * torch.tanh(logits / head.softcap) if head.softcap else logits
