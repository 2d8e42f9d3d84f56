"""What is trained on, and what perplexity is measured on: never the same text."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..fairness.recipes import Plain, Recipe, RecipeError, Transform
from ..language import Corpus, LanguageError, LanguageModel
from ..language.packing import block_size_of
from ..measure.heldout import NOTED_OVERLAP, REJECTED_OVERLAP
from ..training import TrainingBatches
from ..training.batches import TASK_OF_KIND
from .kept_back import check_apart, outside_blocks, part_of
from .settings import FinetuneSettings

PLAIN = Plain()


def split_blocks(blocks: int, held_out: float) -> tuple[list[int], list[int]]:
    """Keep every n-th block from training, so that both parts are of the whole text.

    >>> split_blocks(6, 0.33)
    ([0, 1, 3, 4], [2, 5])
    """
    if not held_out or blocks < 2:
        return list(range(blocks)), []
    every = max(2, min(blocks, int(1 / held_out)))
    kept = range(every - 1, blocks, every)
    return [block for block in range(blocks) if block % every != every - 1], list(kept)


@dataclass(frozen=True)
class TrainingText:
    """Hold the text to train on and the part kept from it."""

    corpus: Corpus  # the text
    blocks: list[int]  # of it, to train on
    held_out: Corpus | None  # the text that has the blocks kept back, or None: no text is
    held_out_blocks: list[int] | None  # of that; None for all
    counts: dict[str, int] = field(default_factory=dict)  # what a recipe did to the text, how often

    def trained_on(self, tokenizer: Any) -> Corpus:
        """Return the text without what is kept back from it: all that a recipe may look at."""
        if len(self.blocks) == self.corpus.num_blocks:
            return self.corpus
        return part_of(self.corpus, self.blocks, tokenizer)


def read_training(
    texts: Sequence[str],
    model: LanguageModel,
    settings: FinetuneSettings,
    recipe: Recipe,
    block_size: int,
) -> TrainingText:
    """Read the text to train on, as the recipe changes it, and keep a share of it back.

    The blocks kept back are those of the text as it was given, the same for every recipe. One that
    changes the text gets its documents without what stands in these blocks, for which a tokenizer
    has to say which characters a token is of.
    """
    share = 0.0 if settings.validation else settings.held_out
    counts: dict[str, int] = {}
    transform = recipe.documents(settings.seed, counts)

    def read(change: Transform | None, max_tokens: int | None) -> Corpus:
        return Corpus.from_spec(
            texts,
            model.tokenizer,
            max_tokens,
            block_size,
            text_column=settings.text_column,
            progress=settings.progress,
            transform=change,
        )

    if transform is None:
        corpus = read(None, settings.max_tokens)
        training, held_out = split_blocks(corpus.num_blocks, share)
        return TrainingText(corpus, training, corpus if held_out else None, held_out)
    if not share:
        corpus = read(transform, settings.max_tokens)
        return TrainingText(corpus, list(range(corpus.num_blocks)), None, None, counts)
    given = read(None, settings.max_tokens)
    _, held_out = split_blocks(given.num_blocks, share)
    if not model.tokenizer.is_fast:
        raise RecipeError(
            f"held_out={share} with recipe {recipe.name!r} and {type(model.tokenizer).__name__}, "
            "which does not say where its tokens stand in the text; expected held_out=0, or "
            "validation texts"
        )
    outside = outside_blocks(given, held_out, model.tokenizer, counts)
    corpus = read(lambda pieces: transform(outside(pieces)), settings.max_tokens)
    kept = given if held_out else None
    return TrainingText(corpus, list(range(corpus.num_blocks)), kept, held_out or None, counts)


def read_validation(
    corpus: Corpus, model: LanguageModel, settings: FinetuneSettings
) -> Corpus | None:
    """Read the text for perplexity, and reject the text that is trained on.

    None where a share of the trained text is held out instead.

    >>> read_validation(None, None, FinetuneSettings()) is None
    True
    """
    if not settings.validation:
        return None
    found = Corpus.from_spec(
        settings.validation,
        model.tokenizer,
        block_size=corpus.block_size,
        text_column=settings.text_column,
        progress=settings.progress,
    )
    if (overlap := corpus.overlap(found)) > REJECTED_OVERLAP:
        raise LanguageError(
            f"the validation text {', '.join(settings.validation)} is the text that is trained on "
            f"or a part of it ({overlap:.0%} of it); expected text the model is not trained on"
        )
    if overlap >= NOTED_OVERLAP:
        warnings.warn(
            f"{overlap:.0%} of the validation text {', '.join(settings.validation)} is trained on: "
            "its perplexity is not that of unseen text",
            UserWarning,
            stacklevel=2,
        )
    return found


def read_as_given(
    texts: Sequence[str], model: LanguageModel, settings: FinetuneSettings
) -> TrainingText:
    """Read the text as a run without a recipe does: what it trains on, and what it keeps back."""
    return read_training(texts, model, settings, PLAIN, block_size_of(model, settings.block_size))


def batches_kept_back(
    text: TrainingText, model: LanguageModel, settings: FinetuneSettings, recipe: Recipe = PLAIN
) -> tuple[Corpus | None, TrainingBatches | None]:
    """Return the validation text, if any is named, and the batches that perplexity is of.

    They are of it, else of what is kept back; None where nothing is.
    """
    validation = read_validation(text.corpus, model, settings)
    held_out = validation or text.held_out
    if held_out is None:
        return None, None
    blocks = None if validation is not None else text.held_out_blocks
    check_apart(recipe, held_out, blocks, model.tokenizer)
    batches = TrainingBatches(
        held_out,
        model,
        settings.task or TASK_OF_KIND[model.kind],
        settings.batch_size,
        blocks,
        seed=settings.seed,
        mask_rate=settings.mask_rate,
    )
    return validation, batches
