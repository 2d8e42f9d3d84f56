"""Text kept back from training, taken out of the documents before a recipe changes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..fairness.recipes import Piece, Recipe, RecipeError, Transform
from ..fairness.recipes.recipe import whole_documents
from ..language import Corpus, LanguageError
from ..language.packing import share_found

CUT = "documents cut where text is kept back"
# Stretches of a recipe's sentences, which are short, and how many of them other text may share:
# of two texts by different hands, less than one in a hundred.
STRETCH, REFUSED_SHARE = 8, 0.1


def ids_of(corpus: Corpus) -> tuple[np.ndarray, int]:
    """Return the ids of a corpus as one row [N], separators included, and how many a block has."""
    batch, layout = corpus.take(range(corpus.num_blocks)), corpus.layout
    before, after = len(layout.prefix), len(layout.suffix)
    room = corpus.block_size - before - after
    total = int(batch.attention_mask.sum()) - corpus.num_blocks * (before + after)
    return batch.input_ids[:, before : before + room].reshape(-1)[:total].numpy(), room


def part_of(corpus: Corpus, blocks: Sequence[int], tokenizer: Any) -> Corpus:
    """Return some blocks of a corpus, in rising order, as a corpus of their own."""
    ids, room = ids_of(corpus)
    kept = np.concatenate([ids[block * room : (block + 1) * room] for block in blocks])
    return Corpus(kept, tokenizer, corpus.block_size, corpus.documents)


def check_apart(recipe: Recipe, kept: Corpus, blocks: Sequence[int] | None, tokenizer: Any) -> None:
    """Reject text for perplexity that a recipe trains on beside the text it is given.

    Of the kept blocks (None for all) a tenth may occur among its sentences, in stretches of 8
    tokens.
    """
    columns = recipe.sentences()
    if not columns:
        return
    kept = kept if blocks is None else part_of(kept, blocks, tokenizer)
    separator = kept.layout.separator
    trained: list[int] = []
    for column in columns:
        for ids in tokenizer(list(column), add_special_tokens=False, verbose=False)["input_ids"]:
            trained += [*ids] if separator is None else [*ids, separator]
    share = share_found(ids_of(kept)[0], np.asarray(trained, dtype=np.int32), STRETCH)
    if share > REFUSED_SHARE:
        raise RecipeError(
            f"recipe {recipe.name!r} trains on {share:.0%} of the text that perplexity is of, by "
            f"its option {', '.join(recipe.trains_on)}; expected validation texts that are not "
            "among it, or held_out=0"
        )


def outside_blocks(
    given: Corpus, blocks: Sequence[int], tokenizer: Any, counts: dict[str, int]
) -> Transform:
    """Return what leaves the text of some blocks out of the documents.

    What stands before, between and behind the blocks becomes a document each, cut at white space: a
    word of which a token lies in a block is left out whole. Where the corpus ends, because of
    ``max_tokens``, the documents do too. ``given`` is the corpus of the same documents, unchanged,
    of a fast tokenizer; a document whose tokens are not those is a LanguageError. ``counts`` gets
    how many documents were cut.
    """
    ids, room = ids_of(given)
    kept = np.isin(np.arange(len(ids)) // room, blocks)

    def take(pieces: Iterable[Piece]) -> Iterator[Piece]:
        place = 0
        for text in whole_documents(pieces):
            found = tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
            spans = found["offset_mapping"]
            if not spans:
                continue
            place += place > 0 and given.layout.separator is not None
            here = slice(place, place + len(spans))
            inside = len(ids[here])
            if not np.array_equal(ids[here], found["input_ids"][:inside]):
                raise LanguageError(
                    f"the document that begins {text[:40]!r} has other tokens as a whole than in "
                    "parts, so that no text can be kept back from it; expected held_out=0, or "
                    "validation texts"
                )
            parts = list(_outside(text, spans, kept[here]))
            counts[CUT] = counts.get(CUT, 0) + (parts != [text])
            yield from ((part, True) for part in parts)
            place += len(spans)
            if place >= len(ids):
                return

    return take


def _outside(text: str, spans: Sequence[tuple[int, int]], kept: np.ndarray) -> Iterator[str]:
    """Yield the stretches of a document between kept tokens; tokens beyond the last are left out.

    >>> spans = [(0, 2), (3, 7), (7, 9), (10, 12)]
    >>> list(_outside("He walked on", spans, np.array([False, False, True, False])))
    ['He', 'on']
    """
    number = 0
    while number < len(kept):
        if kept[number]:
            number += 1
            continue
        first = number
        while number < len(kept) and not kept[number]:
            number += 1
        start = spans[first][0] if first else 0
        end = spans[number - 1][1] if number < len(spans) else len(text)
        while start < end and _inside_word(text, start):
            start += 1
        while end > start and _inside_word(text, end):
            end -= 1
        if part := text[start:end].strip() if (first or number < len(spans)) else text:
            yield part


def _inside_word(text: str, place: int) -> bool:
    """Tell whether characters that are no white space stand on both sides of a place."""
    inside = 0 < place < len(text)
    return inside and not text[place - 1].isspace() and not text[place].isspace()
