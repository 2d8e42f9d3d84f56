"""From pieces of documents to token ids, in bounded memory and with the ids of the whole.

A document longer than ``LONGEST_PIECE`` characters is cut where it does not matter: at a place
where the tokenizer gives the text before and the text behind the ids that it gives both together.
White space is tried first, then every other place nearby. Where none will do (a line of one
endless word) the piece is cut all the same, and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from .text_files import Piece

LONGEST_PIECE = 1 << 18
DOCUMENTS_AT_A_TIME, CHARACTERS_AT_A_TIME = 512, 1 << 20
# What is tokenised on either side to see whether a cut matters, and how many places are tried.
WINDOW, TRIES = 512, 64


class Tokenising:
    """Turn pieces of documents into ids.

    Attributes:
        forced_cuts: places where a document was cut though its ids may be others there.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Take a transformers tokenizer."""
        self._tokenizer = tokenizer
        self.forced_cuts = 0

    def ids(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of texts, without special tokens around them."""
        return self._tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]

    def encode(self, pieces: Iterable[Piece]) -> Iterator[list[tuple[list[int], bool]]]:
        """Yield the ids of pieces (``Sources.read``), some documents or a part of one at a time,
        each with whether its document ends there.
        """
        batch: list[Piece] = []
        characters = 0
        for text, ends in self._bounded(pieces):
            batch.append((text, ends))
            characters += len(text)
            if len(batch) == DOCUMENTS_AT_A_TIME or characters >= CHARACTERS_AT_A_TIME:
                yield self._batch(batch)
                batch, characters = [], 0
        if batch:
            yield self._batch(batch)

    def _batch(self, batch: list[Piece]) -> list[tuple[list[int], bool]]:
        ids = self.ids([text for text, _ in batch])
        return [(found, ends) for found, (_, ends) in zip(ids, batch, strict=True)]

    def _bounded(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Join the pieces of a document, up to ``LONGEST_PIECE`` characters."""
        parts: list[str] = []
        length = 0
        for text, ends in pieces:
            parts.append(text)
            length += len(text)
            if length > LONGEST_PIECE:
                text, start = "".join(parts), 0
                while len(text) - start > LONGEST_PIECE:
                    end, behind = self._place(text, start, start + LONGEST_PIECE)
                    yield text[start:end], False
                    start = behind
                parts, length = [text[start:]], len(text) - start
            if ends:
                yield "".join(parts), True
                parts, length = [], 0

    def _place(self, text: str, start: int, end: int) -> tuple[int, int]:
        """Find where to cut before ``end``: the end of one piece and the start of the next."""
        spaces = [i for i in range(end - 1, max(start, end - 4096), -1) if _is_gap(text, i)]
        others = [i for i in range(end, max(start, end - 4096), -1) if not text[i - 1].isalnum()]
        for place in [*spaces[: TRIES // 2], *others[: TRIES // 4], *range(end, end - 16, -1)]:
            for behind in (place, place + 1) if text[place] == " " else (place,):
                if place > start and self._is_harmless(text, place, behind):
                    return place, behind
        self.forced_cuts += 1
        return end, end

    def _is_harmless(self, text: str, place: int, behind: int) -> bool:
        before, after = text[max(0, place - WINDOW) : place], text[behind : behind + WINDOW]
        whole = text[max(0, place - WINDOW) : behind + WINDOW]
        one, two, both = self.ids([before, after, whole])
        return one + two == both


def _is_gap(text: str, place: int) -> bool:
    """Tell whether one space stands here, between two letters or digits."""
    return text[place] == " " and text[place - 1].isalnum() and text[place + 1].isalnum()
