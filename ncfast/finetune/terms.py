"""The neural-collapse terms of a fine-tuning run, built from words and weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..language import Corpus, LanguageModel, WordSet
from ..losses import (
    DualityRegularizer,
    LambdaSchedule,
    NoClassesWarning,
    Regularizer,
    UniformityRegularizer,
    WithinClassRegularizer,
)
from ..losses.duality import GRADS, SPREADS
from ..presets import preset as find_preset


@dataclass(frozen=True)
class TermSettings:
    """Say which neural-collapse terms to add, on which words, and how strongly.

    Args:
        nc1: weight of the within-class term.
        nc3: weight of (U)NC3, the spread of the cosines of head rows and class means.
        alignment: weight inside ``nc3`` of 1 minus the mean cosine.
        uniformity: weight of GNC2.
        words: names or files of word sets; empty means every class.
        means: class means of the ``"batch"``, ``"ema"`` or ``"running"``.
        warmup: steps without the terms.
        preset: ``"ncfast"``, or ``"official"`` for the paper's code.
        gradient: what ``nc3`` moves: ``"both"``, ``"head"`` or ``"features"``. The official
            preset moves the head.
        spread: of the cosines in ``nc3``, as ``DualityRegularizer`` has it; ``"none"`` leaves
            ``alignment`` alone in its place.

    >>> TermSettings(nc3=0.1).words
    ('gender',)
    """

    nc1: float = 0.0
    nc3: float = 0.0
    alignment: float = 0.0
    uniformity: float = 0.0
    words: tuple[str | WordSet, ...] = ("gender",)
    means: str = "batch"
    warmup: int = 0
    preset: str = "ncfast"
    gradient: str = "both"
    spread: str = "std"

    @property
    def any(self) -> bool:
        """Return whether any term has a weight."""
        return bool(self.nc1 or self.nc3 or self.uniformity)

    def __post_init__(self) -> None:
        """Reject weights and presets that make no sense."""
        for name in ("nc1", "nc3", "alignment", "uniformity"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"the weight {name} is {value}; expected 0 or more")
        if self.preset not in ("ncfast", "official"):
            raise ValueError(f"preset is {self.preset!r}; expected 'ncfast' or 'official'")
        if self.gradient not in GRADS:
            raise ValueError(f"gradient is {self.gradient!r}; expected one of {GRADS}")
        if self.preset == "official" and self.gradient == "features":
            raise ValueError(
                "gradient is 'features' with the official preset, which moves the head"
            )
        if self.warmup < 0:
            raise ValueError(f"the terms' warmup is {self.warmup}; expected steps, 0 or more")
        if self.alignment and not self.nc3:
            raise ValueError("alignment is a weight inside nc3; expected nc3 above 0 too")
        if self.spread not in SPREADS:
            raise ValueError(f"spread is {self.spread!r}; expected one of {SPREADS}")
        if self.spread != "std" and self.preset == "official":
            raise ValueError(f"spread is {self.spread!r} with the official preset, which has 'std'")
        if self.spread == "none" and self.nc3 and not self.alignment:
            raise ValueError("spread is 'none' and alignment 0: nc3 does nothing; expected one")


def word_classes(model: LanguageModel, settings: TermSettings) -> torch.Tensor | None:
    """Return the sorted class ids [K] of the word sets, or None for every class.

    The preset says what becomes of words of several pieces. No word in the vocabulary:
    LanguageError.
    """
    if not settings.words:
        return None
    return torch.tensor(word_ids(model, settings.words, settings.preset))


def word_ids(model: LanguageModel, words: Sequence[str | WordSet], preset: str) -> list[int]:
    """Return the sorted class ids of some word sets; see :func:`word_classes`."""
    policy: Any = find_preset(preset).word_policy
    found: set[int] = set()
    for word in words:
        word_set = word if isinstance(word, WordSet) else WordSet.load(str(word))
        ids = word_set.to_classes(model.tokenizer, policy).ids
        found |= set(ids[ids < model.vocab_size].tolist())
    return sorted(found)


def make_terms(
    model: LanguageModel, corpus: Corpus, settings: TermSettings
) -> tuple[dict[str, Regularizer], list[int]]:
    """Build the terms, and warn where the text gives them nothing to do.

    Returns the terms by name, and the class ids of the word sets.
    """
    ids = word_classes(model, settings)
    weights = {"nc1": settings.nc1, "nc3": settings.nc3, "uniformity": settings.uniformity}
    if not any(weights.values()):
        return {}, [] if ids is None else ids.tolist()
    counts = corpus.token_counts(model.vocab_size)
    mine = counts if ids is None else counts[ids]
    present = int((mine > 0).sum())
    if present < 2:
        warnings.warn(
            f"{present} of the {len(mine)} classes of the terms occur in the text, "
            f"{int(mine.sum())} times: the terms will do nothing; they need 2",
            NoClassesWarning,
            stacklevel=2,
        )
    place: tuple[int, int, Any] = (model.vocab_size, model.hidden_size, ids)
    terms: dict[str, Regularizer] = {}

    def common(weight: float) -> dict[str, Any]:
        return {
            "means": settings.means,
            "weight": LambdaSchedule(weight, warmup=settings.warmup),
            "check_finite": True,  # this loop scales no losses, and says where a NaN is
            "warn_after": None,  # said here from the text, and at the end from what was seen
        }

    if settings.nc1:
        terms["nc1"] = WithinClassRegularizer(*place, **common(settings.nc1))
    if settings.uniformity:
        terms["uniformity"] = UniformityRegularizer(*place, **common(settings.uniformity))
    if settings.nc3:
        own: dict[str, Any] = {
            "alignment_weight": settings.alignment,
            "grad": settings.gradient,
            "spread": settings.spread,
        }
        kept = common(settings.nc3)
        if settings.preset == "official":
            own["preset"] = "official"
            del kept["means"]
        terms["nc3"] = DualityRegularizer(*place, **(own | kept))
    return {
        name: term.to(model.device).train() for name, term in terms.items()
    }, [] if ids is None else ids.tolist()
