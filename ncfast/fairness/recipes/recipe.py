"""What a recipe is: how text, model and loss differ from plain fine-tuning, and what it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from torch import nn

from ...language import Corpus, LanguageModel
from ...training import OwnLoss

Piece = tuple[str, bool]  # of a document, and whether the document ends with it
Transform = Callable[[Iterable[Piece]], Iterator[Piece]]


class RecipeError(ValueError):
    """Tell that a recipe, or an option of one, cannot be used, and what was expected."""


@dataclass(frozen=True)
class Passes:
    """Count what a recipe's own loss runs through the model beside the text, in tokens at most."""

    trained: float = 0.0  # of a step, forward and backward
    forward: float = 0.0  # of a step, forward alone
    once: float = 0.0  # before the first step, forward and backward
    predicted: float = 0.0  # share of the trained ones that the head sees
    copies: int = 0  # of all weights that are held


@dataclass(frozen=True)
class Recipe:
    """Do nothing but what fine-tuning does by itself; every recipe overrides some of it.

    A recipe's fields are its options. ``ncfast finetune --recipe NAME --recipe-option KEY=VALUE``
    and ``FinetuneSettings(recipe=NAME, recipe_options={KEY: VALUE})`` set them.

    Attributes:
        name: of the command line.
        kinds: kinds of model it can treat; of the others, ``refused`` says why not.
        trained: whether weights come from optimiser steps; else :meth:`edit` makes them.
        needs: what the user must bring, in words; empty where a text will do.
        changes_text: whether :meth:`documents` does anything.
        trains_on: options that name files which are trained on beside the text.
    """

    name: ClassVar[str] = ""
    kinds: ClassVar[tuple[str, ...]] = ("masked", "causal")
    refused: ClassVar[str] = ""
    trained: ClassVar[bool] = True
    needs: ClassVar[str] = ""
    changes_text: ClassVar[bool] = False
    trains_on: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def with_options(cls, options: Mapping[str, Any]) -> Self:
        """Make the recipe with some options; a text is read as the type of the option's default."""
        known = {field.name: field for field in fields(cls)}
        given = {}
        for key, value in options.items():
            if key not in known:
                expected = ", ".join(known) or "none: it has no options"
                raise RecipeError(f"recipe {cls.name!r}, option {key!r}; expected {expected}")
            given[key] = _typed(cls.name, key, value, known[key].default)
        return cls(**given)

    def require(self, model: LanguageModel) -> None:
        """Reject a model that the recipe is not defined for."""
        if model.kind not in self.kinds:
            raise RecipeError(
                f"recipe {self.name!r} with {model.name}, a {model.kind} model: {self.refused}; "
                f"expected a {' or '.join(self.kinds)} model"
            )

    def identity(self) -> dict[str, Any]:
        """Return what decides a run beside the options' own values: digests of files they name."""
        return {}

    def documents(self, seed: int, counts: dict[str, int]) -> Transform | None:
        """Return what changes the pieces of documents before they are tokenised, or None.

        ``counts`` is filled while the text is read: what was done how often.
        """
        return None

    def sentences(self) -> Sequence[Sequence[str]]:
        """Return what is trained on beside the text, column by column in the files' order."""
        return ()

    def own_head(self, model: LanguageModel) -> nn.Parameter:
        """Return the head's matrix, which an edit may change."""
        if not isinstance(model.head_weight, nn.Parameter):
            raise RecipeError(
                f"recipe {self.name!r}: the head is made of adapters; merge them first"
            )
        return model.head_weight

    def masking(self, model: LanguageModel) -> dict[str, Any]:
        """Return arguments of ``TrainingBatches`` that the recipe decides; none by default."""
        return {}

    def prepare(self, model: LanguageModel) -> Callable[[], None]:
        """Change a model for its training, and return what changes it back."""
        return lambda: None

    def own_loss(self, model: LanguageModel, corpus: Corpus, seed: int) -> OwnLoss | None:
        """Build the recipe's own loss on the model as it is before training, or None."""
        return None

    def passes(self, block: int) -> Passes:
        """Count what :meth:`own_loss` adds to blocks of so many tokens, to plan memory and time."""
        return Passes()

    def edit(
        self, model: LanguageModel, corpus: Corpus, seed: int
    ) -> tuple[LanguageModel, dict[str, Any]]:
        """Change a model's weights in closed form, by the class means and covariances of a text.

        Return the model, whose weights are no longer what they were, and what was done, for the
        report. It may be wrapped anew: the one given is not to be used any more.
        """
        raise RecipeError(f"recipe {self.name!r} trains; expected one that edits weights")


def whole_documents(pieces: Iterable[Piece]) -> Iterator[str]:
    """Join the pieces of each document.

    >>> list(whole_documents([("a ", False), ("b", True), ("c", True)]))
    ['a b', 'c']
    """
    parts: list[str] = []
    for text, ends in pieces:
        parts.append(text)
        if ends:
            yield "".join(parts)
            parts = []


def _typed(recipe: str, key: str, value: Any, default: Any) -> Any:
    """Read an option as the type of its default; numbers stay within it."""
    kind = type(default)
    try:
        if isinstance(value, str) and kind is bool:
            return {"true": True, "false": False}[value.lower()]
        if kind is tuple:
            return tuple(value.split(",")) if isinstance(value, str) else tuple(value)
        if kind in (int, float) and isinstance(value, str | int | float):
            if kind is int and float(value) != int(float(value)):
                raise ValueError
            return kind(float(value)) if kind is float else int(value)
        if isinstance(value, kind):
            return value
    except (ValueError, KeyError, TypeError):
        pass
    raise RecipeError(f"recipe {recipe!r}, option {key}={value!r}; expected {kind.__name__}")
