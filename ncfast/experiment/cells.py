"""One cell of the grid, a model, an arm and a seed, and what decides what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["BASE", "Cell", "decisive"]

BASE = "base"  # the checkpoint itself: an arm without training, the same for every seed
# What a cell does not depend on: words for the reader, and when it is run.
FREE = ("text", "stage", "seeds", "primary", "control", "late", "good")
# Tables whose keys are a recipe's or the user's: there a "text" is no word for the reader.
OPEN = ("options", "words", "training", "terms", "items", "files")


def decisive(identity: Any, free: tuple[str, ...] = FREE) -> Any:
    """Return what of an identity decides the cell, without fields that say nothing.

    >>> decisive({"arm": {"text": "in words", "options": {"text": 0.5}}})
    {'arm': {'options': {'text': 0.5}}}
    """
    if isinstance(identity, dict):
        found = {
            k: decisive(v, () if k in OPEN else free) for k, v in identity.items() if k not in free
        }
        return {k: v for k, v in found.items() if v not in ("", None, [], {})}
    return [decisive(v, free) for v in identity] if isinstance(identity, list) else identity


@dataclass(frozen=True)
class Cell:
    """Name a cell."""

    model: str
    arm: str
    seed: int  # of the run; 0 for ``base``

    @property
    def name(self) -> str:
        """Return what ``--cell`` takes."""
        return f"{self.model}/{self.arm}/{self.seed}"
