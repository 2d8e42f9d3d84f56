"""The classifier heads of real models, and one that a CPU interprets in seconds."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HEADS", "TINY", "Head"]


@dataclass(frozen=True)
class Head:
    """Name a head of V classes and width D, and how many tokens it is given."""

    name: str
    classes: int
    width: int
    tokens: int = 8_192


# Vocabulary x width as in each model's config.json; Gemma-2 is the 2B model's.
HEADS = (
    Head("GPT-2", 50_257, 768),
    Head("BERT", 30_522, 768),
    Head("Llama-3", 128_256, 4_096),
    Head("Gemma-2", 256_000, 2_304),
)
TINY = (Head("tiny", 97, 24, 61),)
