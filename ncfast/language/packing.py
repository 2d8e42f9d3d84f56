"""How documents become one stream of ids, and what a tokenizer expects of a block."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .errors import LanguageError
from .models import LanguageModel

DEFAULT_BLOCK_SIZE = 128


@dataclass(frozen=True)
class Layout:
    """Say what a tokenizer expects of a block: what stands before, after and between documents."""

    prefix: tuple[int, ...]  # ids before every block, for example ``[CLS]``
    suffix: tuple[int, ...]  # ids after every block, for example ``[SEP]``
    # id between two documents, or None: the last of the suffix, else the end-of-text token, else
    # none
    separator: int | None
    padding: int  # id that fills the last block

    @classmethod
    def of(cls, tokenizer: Any) -> Layout:
        """Read the layout off what the tokenizer adds around a short text."""
        bare = tokenizer("a", add_special_tokens=False)["input_ids"]
        full = tokenizer("a")["input_ids"]
        starts = [i for i in range(len(full)) if full[i : i + len(bare)] == bare]
        start = starts[0] if bare and starts else 0
        prefix, suffix = tuple(full[:start]), tuple(full[start + len(bare) :])
        separator = suffix[-1] if suffix else tokenizer.eos_token_id
        padding = tokenizer.pad_token_id
        if padding is None:
            padding = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else 0
        return cls(prefix, suffix, separator, padding)


class TokenStream:
    """Collect documents as int32 ids with separators, up to a number of real tokens.

    Attributes:
        tokens: real tokens kept so far.
        documents: documents kept so far.
        cut_tokens: real tokens that came after the limit was reached.
        empty: documents of which no token came.
        full: the limit has been reached.
    """

    def __init__(
        self, special_ids: Iterable[int], separator: int | None, max_tokens: int | None
    ) -> None:
        """Start empty; ``max_tokens`` None means no limit."""
        self.tokens = 0
        self.documents = 0
        self.cut_tokens = 0
        self.empty = 0
        self.full = False
        self._special = np.asarray(sorted(set(special_ids)), dtype=np.int32)
        self._separator = separator
        self._max_tokens = max_tokens
        self._parts: list[np.ndarray] = []
        # Of the document that is being added: whether any id of it came, and any was kept.
        self._inside = self._begun = False

    def add(self, ids: Sequence[int], ends: bool = True) -> None:
        """Append a piece of a document, without special tokens, or the part that still fits."""
        array = np.asarray(ids, dtype=np.int32)
        if len(array):
            self._inside = True
            real = ~np.isin(array, self._special)
            count = int(real.sum())
            if self.full or (
                self._max_tokens is not None and self.tokens + count > self._max_tokens
            ):
                self._cut(array, real)
            else:
                self._append(array, count)
        if ends:
            self.empty += not self._inside
            self._inside = self._begun = False

    def _cut(self, array: np.ndarray, real: np.ndarray) -> None:
        """Keep what still fits of this document and count the rest."""
        room = 0 if self.full else (self._max_tokens or 0) - self.tokens
        keep = int(np.searchsorted(np.cumsum(real), room, side="right")) if room else 0
        self.full = True
        self.cut_tokens += int(real[keep:].sum())
        if keep:
            self._append(array[:keep], int(real[:keep].sum()))

    def _append(self, array: np.ndarray, real: int) -> None:
        if not self._begun:
            if self._parts and self._separator is not None:
                self._parts.append(np.asarray([self._separator], dtype=np.int32))
            self.documents += 1
            self._begun = True
        self._parts.append(array)
        self.tokens += real

    def ids(self) -> np.ndarray:
        """Return everything kept as one array [N] int32, separators included."""
        return np.concatenate(self._parts)


def padded(rows: Sequence[Sequence[int]], filler: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of ids [B, T] int64, ``filler`` behind the shorter ones, and their mask.

    >>> [part.tolist() for part in padded([[5, 6], [7]], 0)]
    [[[5, 6], [7, 0]], [[1, 1], [1, 0]]]
    """
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def block_size_of(model: LanguageModel, asked: int | None) -> int:
    """Return the tokens in a block: as many as asked for, else 128 or what the model takes."""
    limit = model.max_positions
    if asked is None:
        return DEFAULT_BLOCK_SIZE if limit is None else min(DEFAULT_BLOCK_SIZE, limit)
    if limit is not None and asked > limit:
        raise LanguageError(f"block_size={asked}; {model.name} takes at most {limit} positions")
    return asked


def check_block_size(block_size: int, layout: Layout, tokenizer: Any) -> int:
    """Return a block size; raise if it holds no text, or more than the tokenizer's model takes."""
    least = len(layout.prefix) + len(layout.suffix) + 2
    most = tokenizer.model_max_length
    if block_size < least:
        raise LanguageError(
            f"block_size={block_size}; expected at least {least} (special tokens and two more)"
        )
    if block_size > most:
        raise LanguageError(
            f"block_size={block_size}; expected at most {most}, which the tokenizer's model takes"
        )
    return int(block_size)


def share_found(text: np.ndarray, inside: np.ndarray, window: int = 32) -> float:
    """Return which share of a text [N] occurs, in stretches of ``window`` ids, in another [M].

    Stretches are laid end to end in ``text`` and are shorter where a text is; they are compared by
    64-bit hashes: two different ones are taken for one with a chance below N M / 2^64.

    >>> share_found(np.arange(64), np.arange(40, 1, -1))
    0.0
    >>> share_found(np.arange(64), np.concatenate([[7, 7, 7], np.arange(32)]))
    0.5
    """
    window = min(window, len(text), len(inside))
    if not window:
        return 0.0
    found = np.isin(_hash_windows(text, window)[::window], _hash_windows(inside, window))
    return float(found.mean())


def _hash_windows(ids: np.ndarray, window: int) -> np.ndarray:
    """Hash the window that starts at each position [N - window + 1] uint64."""
    mixed = ids.astype(np.uint64) + np.uint64(1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    total = np.zeros(len(ids) - window + 1, dtype=np.uint64)
    for offset in range(window):  # wraps at 2^64, on purpose
        total *= np.uint64(0x9E3779B97F4A7C15)
        total += mixed[offset : offset + len(total)]
    return total


def digest_of_vocabulary(tokenizer: Any) -> bytes:
    """Return the SHA-256 over the tokens of a tokenizer and their ids."""
    digest = hashlib.sha256()
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        digest.update(f"{index}\0{token}\0".encode())
    return digest.digest()
