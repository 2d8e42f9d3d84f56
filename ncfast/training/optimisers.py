"""Any torch optimiser by name, what it decays, and the learning rate of a step."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import nn

SCHEDULES = ("linear", "cosine", "constant")


def make_optimizer(
    model: nn.Module, name: str = "AdamW", lr: float = 5e-5, weight_decay: float = 0.01
) -> torch.optim.Optimizer:
    """Make an optimiser of ``torch.optim`` for the parameters that are trained.

    ``lr`` is the highest learning rate; vectors (biases, norms) are not decayed. No such class, one
    that needs a closure or sparse gradients, one that follows neither rate nor decay (Rprop), a
    rate that makes no sense and nothing to train are ValueErrors.

    >>> type(make_optimizer(nn.Linear(2, 2), "SGD", 0.1)).__name__
    'SGD'
    """
    found: Any = getattr(torch.optim, name, None)
    usable = inspect.isclass(found) and issubclass(found, torch.optim.Optimizer)
    # Rprop reads its rate once: what a schedule sets later, and a decay, it would ignore silently.
    if not usable or name in ("Optimizer", "LBFGS", "SparseAdam", "Rprop"):
        raise ValueError(
            f"there is no optimizer {name!r} to train with; expected the name of a class of "
            "torch.optim that takes dense gradients and no closure and follows a learning rate and "
            "a decay, for example AdamW"
        )
    if not (0 < lr < math.inf and 0 <= weight_decay < math.inf):
        raise ValueError(
            f"lr={lr}, weight_decay={weight_decay}; expected lr > 0, weight_decay >= 0"
        )
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("no parameter of the model requires a gradient; nothing to train")
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return found([group for group in groups if group["params"]], lr=lr)


def learning_rate(schedule: str, peak: float, step: int, steps: int, warmup: int = 0) -> float:
    """Return the learning rate of a step: a function of its number, so that resuming is exact.

    After a linear warm-up to ``peak`` it falls to 0 at the end, ``"linear"`` or ``"cosine"``, or is
    ``"constant"``; another schedule is a ValueError.

    >>> [learning_rate("linear", 1.0, step, 4) for step in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule is {schedule!r}; expected one of {', '.join(SCHEDULES)}")
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (1 - done if schedule == "linear" else (1 + math.cos(math.pi * done)) / 2)
