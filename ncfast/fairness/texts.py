"""Texts as a model's tokens: one BOS, one frame per mask, the pieces of a word where it stands."""

from __future__ import annotations

from typing import Any

from .errors import EvaluationError

__all__ = [
    "Remembering",
    "causal_ids",
    "fill_pieces",
    "mask_of",
    "masked_ids",
    "pieces",
    "single_mask",
]

BLANK = "BLANK"


class Remembering:
    """Tokenise every distinct text once, for as long as one benchmark is measured.

    BEC-Pro's 10,800 texts are 970 distinct ones, StereoSet's 8,048 frames 3,788; tokenising each
    anew took three quarters and two fifths of their CPU time with BERT-tiny.

    >>> calls = []
    >>> tokenizer = Remembering(lambda text, **more: calls.append(text) or {"input_ids": [1]})
    >>> tokenizer("a"), tokenizer("a"), calls
    ({'input_ids': [1]}, {'input_ids': [1]}, ['a'])
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[tuple[str, bool], dict[str, Any]] = {}

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, Any]:
        """Return ``{"input_ids": ...}`` of a text."""
        key = text, add_special_tokens
        if key not in self._known:
            out = self._tokenizer(text, add_special_tokens=add_special_tokens)
            self._known[key] = {"input_ids": out["input_ids"]}
        return self._known[key]

    def __getattr__(self, name: str) -> Any:
        """Return what else the tokenizer has."""
        return getattr(self._tokenizer, name)


def causal_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Return exactly one beginning token and every token of a text.

    The tokenizer's own special tokens are left out first, so that a tokenizer that adds a BOS does
    not give two and one that adds an EOS does not score it. Without a BOS the end-of-text token
    stands for it, as at the start of every document these models were trained on.
    """
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise EvaluationError(
            "the tokenizer has neither a BOS nor an EOS token; expected one to condition the first "
            "token on"
        )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise EvaluationError(f"the text {text!r} has no token; expected one or more")
    return (start, *ids)


def masked_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Return the tokens of a text with the special tokens around it."""
    return tuple(tokenizer(text)["input_ids"])


def mask_of(tokenizer: Any) -> tuple[str, int]:
    """Return the mask token of a tokenizer as text and as id, or reject one that has none."""
    token, number = tokenizer.mask_token, tokenizer.mask_token_id
    if token is None or number is None:
        raise EvaluationError(
            "the tokenizer of a masked model has no mask token, so no word can be asked for; "
            "expected tokenizer.mask_token to be set"
        )
    return token, number


def pieces(tokenizer: Any, word: str, after_space: bool) -> tuple[int, ...]:
    """Return the pieces of a word as it stands after a space, or at the start of a text.

    Byte-level and SentencePiece vocabularies know the two as different tokens; scoring a word in
    the middle of a sentence by its form without the space scores another word.
    """

    def encode(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    if after_space:
        # Between two commas, so that no vocabulary's rule for the start of a text joins in.
        before, whole = encode(","), encode(f", {word}")
        found = whole[len(before) :] if whole[: len(before)] == before else encode(f" {word}")
    else:
        found = encode(word)
    if not found:
        raise EvaluationError(f"the tokenizer makes no token of {word!r}; expected one or more")
    return found


def fill_pieces(
    tokenizer: Any, context: str, word: str
) -> tuple[list[tuple[tuple[int, ...], int]], tuple[int, ...]]:
    """Return the frames that predict a word piece by piece at the blank of a context.

    Frame k shows the first k - 1 pieces and one mask for piece k, as the StereoSet harness does
    (Nadeem et al. 2021, code of the intrasentence evaluation). Every ``BLANK`` is filled alike, the
    first is scored. For each piece its frame (token ids) and the position of its mask; and the
    pieces.
    """
    start = context.index(BLANK)
    after_space = start > 0 and context[start - 1].isspace()
    ids = pieces(tokenizer, word, after_space)
    mask, mask_id = mask_of(tokenizer)
    frames = []
    for k in range(len(ids)):
        shown = tokenizer.decode(list(ids[:k])).lstrip() if k else ""
        frame = masked_ids(tokenizer, context.replace(BLANK, f"{shown}{mask}"))
        if mask_id not in frame:
            raise EvaluationError(f"the mask of {context!r} is lost in tokenisation")
        frames.append((frame, frame.index(mask_id)))
    return frames, ids


def single_mask(tokenizer: Any, before: str, after: str) -> tuple[tuple[int, ...], int]:
    """Return the tokens of a text with one mask between two parts, and its position."""
    mask, mask_id = mask_of(tokenizer)
    ids = masked_ids(tokenizer, f"{before}{mask}{after}")
    if ids.count(mask_id) != 1:
        raise EvaluationError(f"{before!r} ... {after!r}: expected one mask after tokenisation")
    return ids, ids.index(mask_id)
