"""Models larger than a device: transformers' own device maps and tensor parallelism.

Under tensor parallelism every rank reads the same text and holds a part of each layer. The head
(and the word embedding, where it is the head) stays whole on each: the class means, of the same
shape, do too.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from .errors import LanguageError

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")

__all__ = ["DEVICE_MAPS", "check_spread", "loading_arguments", "require_spread", "whole"]


def check_spread(device_map: str | None, tensor_parallel: int) -> None:
    """Raise unless the processes that were launched can hold a model so.

    >>> check_spread(None, 1)
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if device_map is not None and device_map not in DEVICE_MAPS:
        listed = ", ".join(DEVICE_MAPS)
        raise LanguageError(f"device_map={device_map!r}; expected one of {listed}")
    if device_map is not None and launched > 1:
        raise LanguageError(
            f"device_map={device_map!r} in {launched} processes, which would share the devices; "
            "expected one process, or tensor parallelism"
        )
    if device_map is not None and tensor_parallel > 1:
        raise LanguageError(
            f"device_map={device_map!r} with tensor_parallel={tensor_parallel}; expected one of "
            "the two"
        )
    if tensor_parallel > 1 and tensor_parallel != launched:
        raise LanguageError(
            f"tensor_parallel={tensor_parallel} in {launched} processes; expected as many: "
            f"torchrun --nproc-per-node {tensor_parallel}"
        )


def loading_arguments(
    auto_class: Any, config: Any, device_map: str | None, tensor_parallel: int
) -> dict[str, Any]:
    """Return what ``from_pretrained`` is given besides, for a model on several devices.

    Without a plan of transformers that splits the layers of this model, a LanguageError.
    """
    if device_map is not None:
        return {"device_map": device_map}
    if tensor_parallel == 1:
        return {}
    try:
        from transformers.distributed import DistributedConfig
    except ImportError as error:
        raise LanguageError(
            f"this transformers has no tensor parallelism to hand a model to ({error}); expected "
            "a version with transformers.distributed.DistributedConfig"
        ) from error
    with torch.device("meta"):
        model = auto_class.from_config(config)
    kept = _kept_whole(model)
    plan = dict(getattr(model, "tp_plan", None) or {})
    if not plan.keys() - kept:
        raise LanguageError(
            f"tensor_parallel={tensor_parallel} with {type(model).__name__}, for whose layers "
            "transformers has no plan (base_model_tp_plan); expected a model with one, or "
            "device_map"
        )
    override = {name: "replicate" for name in plan if name in kept}
    return {
        "distributed_config": DistributedConfig(tp_size=tensor_parallel, tp_plan=override or "auto")
    }


def _kept_whole(model: Any) -> set[str]:
    """Name the head, and the word embedding where it is the head too."""
    head, words = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head is None or getattr(head, "weight", None) is words.weight
    kept = [module for module in (head, words if tied else None) if module is not None]
    return {name for name, module in model.named_modules() if any(module is k for k in kept)}


def require_spread(model: nn.Module, name: str) -> None:
    """Raise where weights are nowhere, as they are when a device map leaves some on the disk."""
    for key, parameter in model.named_parameters():
        if parameter.is_meta:
            raise LanguageError(
                f"the device map of {name} leaves {key} on the disk; expected devices and memory "
                "that hold the whole model"
            )


def whole(parameter: torch.Tensor) -> torch.Tensor:
    """Return a parameter with the parts that other ranks hold, on each, which all call this.

    >>> whole(torch.ones(2)).tolist()
    [1.0, 1.0]
    """
    tensor = parameter.detach()
    found: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return found
