"""One cell of the grid, a model, an arm and a seed, and what decides what it finds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..language import WordSet

__all__ = ["BASE", "Cell", "decisive", "digests_of_words"]

BASE = "base"  # the checkpoint itself: an arm without training, the same for every seed
# What a cell does not depend on: words for the reader, and when it is run.
FREE = ("text", "stage", "seeds", "primary", "control", "late", "good")
# Tables whose keys are a recipe's or the user's: there a "text" is no word for the reader, and what
# is empty was written so, in place of what holds without it: ``validation = []`` of an arm.
OPEN = ("options", "words", "training", "terms", "items", "files")


def decisive(identity: Any, is_open: bool = False) -> Any:
    """Return what of an identity decides the cell, without fields that say nothing.

    >>> decisive({"arm": {"text": "in words", "of": "", "options": {"text": 0.5, "words": []}}})
    {'arm': {'options': {'text': 0.5, 'words': []}}}
    """
    if isinstance(identity, list):
        return [decisive(v, is_open) for v in identity]
    if not isinstance(identity, dict):
        return identity
    found = {
        k: decisive(v, is_open or k in OPEN)
        for k, v in identity.items()
        if is_open or k not in FREE
    }
    return {k: v for k, v in found.items() if is_open or v not in ("", None, [], {})}


def digests_of_words(words: Mapping[str, WordSet]) -> dict[str, str]:
    """Return a digest of each set of words, by name."""
    return {
        name: hashlib.sha256(repr(found).encode()).hexdigest()[:16] for name, found in words.items()
    }


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
