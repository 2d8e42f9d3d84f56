"""The weight of a term as training goes on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LambdaSchedule"]


@dataclass(frozen=True)
class LambdaSchedule:
    """Give a term's weight at each call: nothing, a ramp, a plateau, a decay.

    Args:
        peak: The weight on the plateau, at least 0.
        warmup: Calls with weight 0, so that class means are worth aligning to before the term acts.
        ramp: Calls after those over which the weight rises linearly to ``peak``.
        hold: Calls on the plateau; None: for good.
        decay: Calls after the plateau over which the weight goes to ``final``.
        final: The weight after the decay.
        shape: ``"linear"`` or ``"cosine"``, of the decay.

    A call is one call of the term in training mode: with k micro-batches per optimiser step, a step
    is k calls.

    >>> weight = LambdaSchedule(peak=2.0, warmup=1, ramp=2)
    >>> [weight.at(torch.tensor(call)).item() for call in range(5)]
    [0.0, 0.0, 1.0, 2.0, 2.0]
    """

    peak: float = 1.0
    warmup: int = 0
    ramp: int = 0
    hold: int | None = None
    decay: int = 0
    final: float = 0.0
    shape: str = "linear"

    def __post_init__(self) -> None:
        for name in ("peak", "final"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"LambdaSchedule: {name} is {value}; expected 0 or more")
        for name in ("warmup", "ramp", "hold", "decay"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"LambdaSchedule: {name} is {value}; expected calls, 0 or more")
        if self.shape not in ("linear", "cosine"):
            raise ValueError(f"LambdaSchedule: shape is {self.shape!r}; expected linear or cosine")

    @property
    def constant(self) -> bool:
        """Whether every call has the same weight."""
        return not self.warmup and not self.ramp and self.hold is None

    def at(self, call: Tensor) -> Tensor:
        """Return the weight at a call, counted from 0, as a float32 scalar on its device."""
        since = call.to(torch.float32) - self.warmup
        weight = (since >= 0) * torch.full_like(since, self.peak)
        if self.ramp:
            weight = self.peak * (since / self.ramp).clamp(0, 1)
        if self.hold is None:
            return weight
        late = since - self.ramp - self.hold
        share = (late / self.decay).clamp(0, 1) if self.decay else (late >= 0).to(torch.float32)
        if self.shape == "cosine":
            share = (1 - torch.cos(math.pi * share)) / 2
        return weight + share * (self.final - weight)
