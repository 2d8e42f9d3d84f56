"""What is trained on, and what perplexity is measured on: never the same text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ..fairness.recipes import Piece, Recipe, Transform
from ..language import Corpus, LanguageError, LanguageModel
from ..measure.heldout import REFUSED_OVERLAP
from .settings import FinetuneSettings


def split_blocks(blocks: int, held_out: float) -> tuple[list[int], list[int]]:
    """Keep every n-th block from training, so that both parts are of the whole text.

    Args:
        blocks: how many there are.
        held_out: share to keep back.

    Returns:
        Blocks to train on and blocks kept back.

    Example:
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
    """Hold the text to train on and the part kept from it.

    Args:
        corpus: the text.
        blocks: of it, to train on.
        held_out: the text that has the blocks kept back, or None: no text is.
        held_out_blocks: of that; None for all.
        counts: what a recipe did to the text, how often.
    """

    corpus: Corpus
    blocks: list[int]
    held_out: Corpus | None
    held_out_blocks: list[int] | None
    counts: dict[str, int] = field(default_factory=dict)


def read_training(
    texts: Sequence[str],
    model: LanguageModel,
    settings: FinetuneSettings,
    recipe: Recipe,
    block_size: int,
) -> TrainingText:
    """Read the text to train on, as the recipe changes it, and keep a share of it back.

    A share of a text that a recipe changes is kept back by documents, unchanged: perplexity is of
    the text that was given.

    Args:
        texts: names.
        model: gives the tokenizer.
        settings: share, seed, tokens.
        recipe: what happens to the text.
        block_size: tokens in a block.

    Returns:
        The text.

    Raises:
        LanguageError: it cannot be read.

    Example:
        >>> read_training(["demo:text"], model, settings, Plain(), 128)  # doctest: +SKIP
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
    every = max(2, int(1 / share))
    most = settings.max_tokens
    kept = read(documents_of(every, True), None if most is None else max(1, most // every))
    corpus = read(lambda pieces: transform(documents_of(every, False)(pieces)), most)
    return TrainingText(corpus, list(range(corpus.num_blocks)), kept, None, counts)


def documents_of(every: int, kept: bool) -> Transform:
    """Return what takes every n-th document of a text, or all the others.

    Args:
        every: n.
        kept: take the n-th ones.

    Returns:
        A function from pieces of documents to pieces of documents.

    Example:
        >>> pieces = [("a", False), ("b", True), ("c", True), ("d", True)]
        >>> list(documents_of(2, True)(pieces)), list(documents_of(2, False)(pieces))
        ([('c', True)], [('a', False), ('b', True), ('d', True)])
    """

    def take(pieces: Iterable[Piece]) -> Iterator[Piece]:
        document = 0
        for piece in pieces:
            if (document % every == every - 1) == kept:
                yield piece
            document += piece[1]

    return take


def read_validation(
    corpus: Corpus, model: LanguageModel, settings: FinetuneSettings
) -> Corpus | None:
    """Read the text for perplexity, and refuse the text that is trained on.

    Args:
        corpus: the text that is trained on.
        model: gives the tokenizer.
        settings: name the texts, if any.

    Returns:
        The text, or None where a share of the trained text is held out instead.

    Raises:
        LanguageError: it cannot be read, or nearly all of it is trained on.

    Example:
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
    if (overlap := corpus.overlap(found)) > REFUSED_OVERLAP:
        raise LanguageError(
            f"the validation text {', '.join(settings.validation)} is the text that is trained on "
            f"or a part of it ({overlap:.0%} of it); expected text the model is not trained on"
        )
    return found
