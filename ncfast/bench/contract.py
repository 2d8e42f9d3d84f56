"""What a provider is given, and what it hands back to be timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Absent", "Inputs", "Prepare", "Prepared", "State"]


class Absent(Exception):
    """Say why a provider cannot do an op here."""


class State(NamedTuple):
    """Hold running moments that a call changes in place."""

    counts: Tensor
    means: Tensor
    m2: Tensor
    scatter: Tensor


class Inputs:
    """Make the tensors of one size, each when it is first asked for, the same on every run.

    Args:
        tokens, width, classes: N, D and V.
        dtype: The dtype of the features.
        seed: The random state.
        exact: Whether to hand out the same numbers in float64, for the definition to work on.
    """

    def __init__(
        self,
        tokens: int,
        width: int,
        classes: int,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        exact: bool = False,
    ) -> None:
        self.tokens, self.width, self.classes = tokens, width, classes
        self.dtype, self.seed, self.exact = dtype, seed, exact

    def _random(self, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed + 1_000 * number)

    def _normal(self, number: int, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._random(number))

    def _given(self, rounded: Tensor) -> Tensor:
        return rounded.double() if self.exact else rounded

    @cached_property
    def x(self) -> Tensor:
        """Return features [N, D]."""
        return self._given(self._normal(1, self.tokens, self.width).to(self.dtype))

    @cached_property
    def y(self) -> Tensor:
        """Return Zipf labels [N]; ids are permuted, as a vocabulary is not sorted by frequency."""
        generator = self._random(2)
        frequency = 1 / torch.arange(1, self.classes + 1, dtype=torch.float64)
        ranks = torch.multinomial(frequency, self.tokens, replacement=True, generator=generator)
        return torch.randperm(self.classes, generator=generator)[ranks]

    @cached_property
    def means(self) -> Tensor:
        """Return class means [V, D]: the points of geometry, the running means of a state."""
        return self._given(self._normal(3, self.classes, self.width))

    @cached_property
    def head_weight(self) -> Tensor:
        """Return head rows [V, D]."""
        return self._given(self._normal(4, self.classes, self.width))

    @cached_property
    def center(self) -> Tensor:
        """Return the mean of the means [D]."""
        return self._given(self.means.float().mean(0))

    @cached_property
    def grad(self) -> Tensor:
        """Return an upstream gradient [V]."""
        return self._given(self._normal(5, self.classes))

    @cached_property
    def variances(self) -> Tensor:
        """Return class variances [V], positive."""
        return self._given(self._normal(6, self.classes).abs() + 0.5)

    @cached_property
    def counts(self) -> Tensor:
        """Return running counts [V]: no class is new, so that a merge has both sides."""
        return torch.randint(1, 40, (self.classes,), generator=self._random(7))

    @cached_property
    def m2(self) -> Tensor:
        """Return running spreads [V] float64."""
        return self.counts.double() * self.variances.double() * self.width

    @cached_property
    def scatter(self) -> Tensor:
        """Return a running scatter [D, D] float64."""
        root = self._normal(8, self.width, self.width).double()
        return root @ root.T

    @cached_property
    def classifier(self) -> Tensor:
        """Return head rows [V, D] whose logits have the spread that a trained model's have."""
        return self._given(self._normal(9, self.classes, self.width) * self.width**-0.5)

    @cached_property
    def head_bias(self) -> Tensor:
        """Return the head's bias [V]."""
        return self._given(self._normal(10, self.classes))

    @cached_property
    def masked_y(self) -> Tensor:
        """Return labels [N] of which 15 % are kept and the others are -100, as a masked LM's."""
        kept = torch.rand(self.tokens, generator=self._random(11)) < 0.15
        return torch.where(kept, self.y, -100)

    @cached_property
    def word_set(self) -> Tensor:
        """Return the ids [K] of a word set: 300 classes, or a third of all."""
        ids = torch.randperm(self.classes, generator=self._random(12))
        return ids[: min(300, self.classes // 3)].sort().values

    @cached_property
    def state(self) -> State:
        """Return running moments in memory of their own, the same for all who are timed on it."""
        return State(*(t.clone() for t in (self.counts, self.means, self.m2, self.scatter)))


@dataclass(frozen=True)
class Prepared:
    """Hold one provider's way to do one op, ready to be timed.

    ``call`` is what is timed. It returns memory that it allocated as outputs, or None where it
    only writes into memory it was given. ``results`` names what has been computed, from what one
    call returned; it is never timed. ``scale`` multiplies times taken on a part of the work, and
    ``note`` says which part, and with what tiles. Memory that is given and changed in place is
    ``Inputs.state``.
    """

    call: Callable[[], Any]
    results: Callable[[Any], dict[str, Tensor]]
    scale: float = 1.0
    note: str = ""


Prepare = Callable[[Inputs], Prepared]
