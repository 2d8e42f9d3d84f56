"""What is trained on, and what perplexity is measured on: never the same text."""

from __future__ import annotations

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
