"""A loss in the forward pass of a wrapped model: DDP listens there, and FSDP has weights whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def inside_forward(wrapped: nn.Module, model: nn.Module, function: Callable[[], Any]) -> Any:
    """Call a function in place of a model's forward pass, with all that its wrappers do around it.

    DistributedDataParallel averages the gradients of what its forward pass returns, and
    ``fully_shard`` gathers weights for the length of that pass. A loss that takes features and head
    weight itself is right under both when it is computed, and returned, in there. The function may
    call the ``forward`` of the model inside the wrappers (of ``fully_shard``, which changes a model
    in place, of the model itself), not the model.

    >>> layer = nn.Linear(2, 1)
    >>> inside_forward(layer, layer, lambda: layer.weight.shape)
    torch.Size([1, 2])
    """
    own = vars(model).get("forward")  # accelerate's mixed precision puts one there

    def restore() -> None:
        vars(model).pop("forward", None)
        if own is not None:
            vars(model)["forward"] = own

    def instead(*args: Any, **kwargs: Any) -> Any:
        restore()
        return function()

    vars(model)["forward"] = instead
    try:
        return wrapped()
    finally:
        restore()
