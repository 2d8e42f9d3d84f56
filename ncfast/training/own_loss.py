"""A loss beside the cross-entropy of the text and the neural-collapse terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class OwnLoss(Protocol):
    """Be the part of a recipe's loss that is not cross-entropy of the text's tokens.

    :class:`Objective` adds it to every step. It depends on step and seed alone, never on the rank,
    so that a resumed run and a shared one compute the same.

    Attributes:
        cross_entropy_weight: of the cross-entropy of the text's tokens beside it.
    """

    cross_entropy_weight: float

    def losses(self, step: int) -> Mapping[str, tuple[Tensor, float]]:
        """Return each loss of a step by name: a scalar with a gradient, and its weight."""

    def state(self) -> Mapping[str, Tensor]:
        """Return what changes during a run, for checkpoints; filled in place on resuming."""
