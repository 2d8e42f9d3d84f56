"""What a benchmark asks of a model: log-probabilities at masked positions, or of whole texts."""

from __future__ import annotations

import math
from collections.abc import Sequence as Ordered
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

__all__ = ["Masked", "Origin", "Scorer", "Sequence", "mean_of"]


class Origin(NamedTuple):
    """Name the field of a benchmark's file that a request was made from, for errors."""

    file: str
    row: object
    field: str


@dataclass(frozen=True)
class Masked:
    """Ask a masked model for log p(candidate | input) at one position."""

    ids: tuple[int, ...]  # the input with its special tokens and its masks
    position: int  # index in ``ids`` that is predicted
    candidates: tuple[int, ...]  # class ids whose log-probabilities are asked for
    # where the input comes from; requests that differ in it alone are equal
    origin: Origin | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Sequence:
    """Ask a causal model for log p(token | tokens before) of every token after the first."""

    ids: tuple[int, ...]  # the tokens; the first (BOS) is condition only
    # where the text comes from; requests that differ in it alone are equal
    origin: Origin | None = field(default=None, compare=False, repr=False)


class Scorer(Protocol):
    """Answer the requests of a benchmark."""

    tokenizer: Any

    @property
    def kind(self) -> str:
        """Return ``"masked"`` or ``"causal"``."""

    def masked(self, requests: Ordered[Masked]) -> list[tuple[float, ...]]:
        """Return the log-probabilities of each request's candidates, in nats."""

    def sequences(self, requests: Ordered[Sequence]) -> list[tuple[float, ...]]:
        """Return each token's log-probability after the first, in nats."""


def mean_of(values: Ordered[float]) -> float:
    """Return the mean of one number or more; of equal numbers exactly that number.

    A sum divided by its count is not: three times -ln 49,152 over 3 is another float than 7 times
    it over 7, and a model that finds all words alike would prefer words of some lengths.

    >>> a = -math.log(49152)
    >>> [mean_of([a] * k) == a for k in (3, 7)], mean_of([1.0, 2.0])
    ([True, True], 1.5)
    """
    return values[0] + math.fsum(value - values[0] for value in values) / len(values)
