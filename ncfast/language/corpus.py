"""Text in, token batches out: tokenised once, in a fixed order, resumable by batch index."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .errors import LanguageError
from .inspection import unknown_id_of
from .packing import Layout, TokenStream, check_block_size, digest_of_vocabulary, share_found
from .sources import Sources
from .text_files import Piece
from .tokenising import Tokenising


@dataclass(frozen=True)
class Batch:
    """Hold some blocks of tokens."""

    index: int  # number of the batch, for resuming
    blocks: torch.Tensor  # number of each row's block in the corpus [B] int64
    input_ids: torch.Tensor  # token ids [B, T] int64
    attention_mask: torch.Tensor  # [B, T] int64, 1 for tokens and 0 for padding
    special_mask: torch.Tensor  # [B, T] bool, True at special tokens (not at padding)


class Corpus:
    """Keep a text as token ids in memory, 4 bytes a token, and cut it into blocks.

    Documents follow each other with a separator between them and are cut into blocks of equal
    length, each with the tokenizer's own special tokens around it. A document that does not fit
    goes on in the next block, so no text is truncated away; only ``max_tokens`` cuts.

    Attributes:
        tokens: real tokens kept (neither special nor padding nor unknown).
        unknown_tokens: unknown-word tokens among the ids; they are special to every metric.
        documents: number of documents kept, the last one perhaps cut.
        dropped: what was left out, by kind, as counts.
        notes: what a report should say about the text.
        block_size: tokens in a block, special ones included.
        num_blocks: number of blocks.
        layout: see :class:`Layout`.
    """

    def __init__(
        self,
        ids: np.ndarray,
        tokenizer: Any,
        block_size: int = 128,
        documents: int = 1,
        dropped: dict[str, int] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Take ids [N] int32 that are already separated; users call :meth:`from_spec`."""
        self.layout = Layout.of(tokenizer)
        self.block_size = check_block_size(block_size, self.layout, tokenizer)
        self._ids = np.ascontiguousarray(ids, dtype=np.int32)
        special = np.asarray(sorted(set(tokenizer.all_special_ids)), dtype=np.int32)
        self._special = special
        self._vocabulary_digest = digest_of_vocabulary(tokenizer)
        self.tokens = int(len(self._ids) - np.isin(self._ids, special).sum())
        unknown = unknown_id_of(tokenizer)
        self.unknown_tokens = 0 if unknown is None else int((self._ids == unknown).sum())
        self.documents = documents
        self.dropped = dict(dropped or {})
        self.notes = tuple(notes)
        self._room = self.block_size - len(self.layout.prefix) - len(self.layout.suffix)
        self.num_blocks = -(-len(self._ids) // self._room)

    @classmethod
    def from_spec(
        cls,
        texts: Sequence[str],
        tokenizer: Any,
        max_tokens: int | None = None,
        block_size: int = 128,
        documents: str = "lines",
        text_column: str | None = None,
        progress: bool = True,
        text_key: str | None = None,
        transform: Callable[[Iterable[Piece]], Iterator[Piece]] | None = None,
    ) -> Corpus:
        """Read and tokenise text.

        Args:
            texts: .txt, .jsonl, .json, .csv, .tsv (each also .gz) and .parquet files, folders of
                them (recursive, sorted), globs, ``demo:text``, ``pypi:`` specs, or data sets
                (``hf:NAME[:config][:split]``, or a plain name when there is no such path).
            tokenizer: a transformers tokenizer.
            max_tokens: stop after this many real tokens (special ones and padding not counted).
            block_size: tokens in a block, special ones included.
            documents: ``"lines"`` or ``"paragraphs"``, of plain text; elsewhere a document is a
                record.
            text_column: the column, or key, that holds the text where there are several; None
                takes ``text``, or the only one of text.
            progress: show a bar on stderr.
            text_key: the former name of ``text_column``.
            transform: changes the text before it is tokenised: from pieces of documents (a text,
                and whether the document ends with it) to pieces of documents.

        Returns:
            The corpus.

        Raises:
            LanguageError: a text is missing, unreadable or empty, or a setting makes no sense.
        """
        if text_key is not None:
            warnings.warn("text_key is now text_column", DeprecationWarning, stacklevel=2)
            text_column = text_key
        if max_tokens is not None and max_tokens < 1:
            raise LanguageError(f"max_tokens={max_tokens}; expected at least 1, or None for all")
        layout = Layout.of(tokenizer)
        check_block_size(block_size, layout, tokenizer)
        sources = Sources(
            [str(text) for text in texts] if not isinstance(texts, str) else [texts],
            documents=documents,
            text_column=text_column,
            progress=progress,
        )
        stream = TokenStream(tokenizer.all_special_ids, layout.separator, max_tokens)
        tokenising = Tokenising(tokenizer)
        with _Bar(max_tokens, progress) as bar:
            documents_read = sources.read() if transform is None else transform(sources.read())
            for pieces in tokenising.encode(documents_read):
                for ids, ends in pieces:
                    stream.add(ids, ends)
                bar.move_to(stream.tokens)
                if stream.full:
                    break
        if stream.tokens == 0:
            raise LanguageError(
                f"no token came out of {', '.join(sources.specs)}: the text is empty or every "
                "word is unknown to the tokenizer"
            )
        dropped, notes = _account(sources, stream, max_tokens, tokenising.forced_cuts)
        return cls(stream.ids(), tokenizer, block_size, stream.documents, dropped, notes=notes)

    @property
    def fingerprint(self) -> str:
        """Return a SHA-256 over ids, vocabulary and block settings; resuming compares it."""
        digest = hashlib.sha256()
        digest.update(self._ids.tobytes())
        digest.update(repr((self.layout, self.block_size, self._special.tolist())).encode())
        digest.update(self._vocabulary_digest)
        return digest.hexdigest()

    @property
    def nbytes(self) -> int:
        """Return the bytes of memory the ids take: 4 a token."""
        return self._ids.nbytes

    def token_counts(self, vocab_size: int) -> torch.Tensor:
        """Count how often each id occurs as a real token.

        Args:
            vocab_size: rows V of the head; ids beyond are left out.

        Returns:
            Counts [V] int64, zero for special tokens.
        """
        real = self._ids[~np.isin(self._ids, self._special)]
        counts = np.bincount(real[real < vocab_size], minlength=vocab_size)
        return torch.from_numpy(counts.astype(np.int64))

    def overlap(self, other: Corpus) -> float:
        """Return which share of another text this text holds.

        Args:
            other: a text of the same tokenizer.

        Returns:
            The share of the other text that occurs here, in stretches of 32 tokens.
        """
        return share_found(other._ids, self._ids)

    def num_batches(self, batch_size: int) -> int:
        """Return how many batches of this size the text makes.

        Args:
            batch_size: blocks in a batch.

        Returns:
            The number of batches, the last one perhaps smaller.
        """
        return -(-self.num_blocks // batch_size)

    def batches(self, batch_size: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches in their fixed order.

        Args:
            batch_size: blocks in a batch.
            start: index of the first batch to yield; a resumed run gives the number it has done.

        Yields:
            Batches, all [batch_size, block_size] but the last.

        Raises:
            LanguageError: batch_size below 1 or start outside the text.
        """
        total = self.num_batches(batch_size) if batch_size >= 1 else 0
        if batch_size < 1 or not 0 <= start <= total:
            raise LanguageError(
                f"batch_size={batch_size}, start={start}; expected batch_size >= 1 and start "
                f"between 0 and {total}"
            )
        for index in range(start, total):
            first = index * batch_size
            blocks = range(first, min(first + batch_size, self.num_blocks))
            yield self.take(blocks, index)

    def take(self, blocks: Sequence[int], index: int = 0) -> Batch:
        """Return a batch of any blocks, in any order.

        Args:
            blocks: numbers of the blocks, each below ``num_blocks``.
            index: number of the batch.

        Returns:
            The batch, one row a block.
        """
        prefix, suffix = self.layout.prefix, self.layout.suffix
        shape = (len(blocks), self.block_size)
        input_ids = np.full(shape, self.layout.padding, dtype=np.int64)
        attention_mask = np.zeros(shape, dtype=np.int64)
        for row, block in enumerate(blocks):
            text = self._ids[block * self._room : (block + 1) * self._room]
            end = len(prefix) + len(text)
            input_ids[row, : len(prefix)] = prefix
            input_ids[row, len(prefix) : end] = text
            input_ids[row, end : end + len(suffix)] = suffix
            attention_mask[row, : end + len(suffix)] = 1
        special_mask = np.isin(input_ids, self._special) & (attention_mask == 1)
        return Batch(
            index,
            torch.tensor(list(blocks), dtype=torch.int64),
            torch.from_numpy(input_ids),
            torch.from_numpy(attention_mask),
            torch.from_numpy(special_mask),
        )


def _account(
    sources: Sources, stream: TokenStream, max_tokens: int | None, forced_cuts: int
) -> tuple[dict[str, int], list[str]]:
    """Count what was left out, and say it in words where a count is not the whole story."""
    notes = list(sources.notes)
    dropped = {
        "empty documents": sources.empty_documents + stream.empty,
        "files of other types": len(sources.skipped_files),
        "hidden files": len(sources.hidden_files),
        "tokens read beyond max_tokens": stream.cut_tokens,
    }
    if sources.skipped_files:
        notes.append(f"files of other types were skipped, e.g. {sources.skipped_files[0]}")
    if sources.hidden_files:
        notes.append(f"hidden files were skipped, e.g. {sources.hidden_files[0]}")
    if forced_cuts:
        notes.append(
            f"a document without white space was cut to be tokenised ({forced_cuts:,} times); the "
            "tokens there may differ"
        )
    if stream.full:
        notes.append(
            f"only the first {max_tokens:,} tokens of the text were read; "
            "what follows was not tokenised and is not counted"
        )
    return dropped, notes


class _Bar:
    """Show tokens read, when tqdm is there and progress is asked for."""

    def __init__(self, total: int | None, progress: bool) -> None:
        self._bar: Any = None
        if progress:
            try:
                from tqdm import tqdm
            except ImportError:  # the bar is a courtesy
                return
            self._bar = tqdm(
                total=total, unit=" tokens", unit_scale=True, desc="tokenising", leave=False
            )

    def __enter__(self) -> _Bar:
        return self

    def move_to(self, tokens: int) -> None:
        if self._bar is not None:
            self._bar.update(tokens - self._bar.n)

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
