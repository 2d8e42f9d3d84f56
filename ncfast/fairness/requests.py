"""What a benchmark asks of a model: log-probabilities at masked positions, or of whole texts."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Masked", "Sequence"]


@dataclass(frozen=True)
class Masked:
    """Ask a masked model for log p(candidate | input) at one position.

    Attributes:
        ids: the input with its special tokens and its masks.
        position: index in ``ids`` that is predicted.
        candidates: class ids whose log-probabilities are wanted.
    """

    ids: tuple[int, ...]
    position: int
    candidates: tuple[int, ...]


@dataclass(frozen=True)
class Sequence:
    """Ask a causal model for log p(token | tokens before) of every token after the first.

    Attributes:
        ids: the tokens; the first (BOS) is condition only.
    """

    ids: tuple[int, ...]
