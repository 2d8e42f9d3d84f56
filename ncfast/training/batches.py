"""Training batches by step number: any step of any epoch, without reading those before it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ..language import Batch, Corpus, Labeller, LanguageError, LanguageModel
from ..language.labels import IGNORE

Task = Literal["mlm", "clm"]
TASK_OF_KIND: dict[str, Task] = {"masked": "mlm", "causal": "clm"}
# Streams of the counter-based generator; the labeller of `ncfast measure` has stream 0.
MASKS, ORDER = 1, 2


@dataclass(frozen=True)
class TrainingBatch:
    """Hold the rows of one optimiser step, or some of them."""

    input_ids: torch.Tensor  # token ids [B, T] int64, masked where the task masks
    attention_mask: torch.Tensor  # [B, T] int64
    labels: torch.Tensor  # what the head must predict at each position [B, T] int64, or -100
    # what the neural-collapse terms see [B, T] int64, or -100: the labels that ``ncfast measure``
    # would take too. Under ``mlm`` these are positions that hold the mask token; a token left or
    # swapped at random is predicted but tells the model another thing.
    term_labels: torch.Tensor
    tokens: int  # real tokens, neither special nor padding

    @property
    def predicted(self) -> int:
        """Return how many positions the head must predict."""
        return int((self.labels != IGNORE).sum())

    def split(self, parts: int) -> list[TrainingBatch]:
        """Cut the rows into micro-batches, fewer where rows are, the first ones longer where it
        must be.
        """
        columns = (self.input_ids, self.attention_mask, self.labels, self.term_labels)
        pieces = zip(*(torch.tensor_split(column, parts) for column in columns), strict=True)
        # `tokens` is said once, of the whole.
        return [TrainingBatch(a, b, c, d, 0) for a, b, c, d in pieces if len(a)]


class TrainingBatches:
    """Give the batch of any step: blocks in a new order every epoch, masked anew every epoch.

    Order and masks depend on seed, epoch and block alone, so micro-batches, ranks and resuming
    change nothing.

    - ``clm``: the label is the next token, separators included, so that the model still learns
      where a text ends.
    - ``mlm``: a share of the tokens is predicted; of these 80 % become the mask token, 10 % a
      random token and 10 % stay (BERT, Devlin et al. 2019). Tokens of ``mask_words_ids`` are drawn
      at a share of their own.
    """

    def __init__(
        self,
        corpus: Corpus,
        model: LanguageModel,
        task: Task,
        batch_size: int,
        blocks: Sequence[int] | None = None,
        seed: int = 0,
        mask_rate: float = 0.15,
        mask_words: float | None = None,
        mask_words_ids: Sequence[int] = (),
        term_next: bool = False,
        mask_only: bool = False,
    ) -> None:
        """Choose what to train on.

        Args:
            corpus: the text.
            model: gives mask token, special tokens and vocabulary.
            task: ``"mlm"`` or ``"clm"``.
            batch_size: blocks in an optimiser step.
            blocks: numbers of the blocks to train on; default all.
            seed: of order and masks.
            mask_rate: share of the tokens that is predicted under ``mlm``.
            mask_words: the same share for tokens of ``mask_words_ids``; None takes ``mask_rate``.
            mask_words_ids: class ids of the word sets.
            term_next: let the terms see the next token whatever the task, as the official
                fairness code does.
            mask_only: replace every predicted token by the mask, none by a random token or itself.

        Raises:
            LanguageError: a setting that makes no sense, or a model without a mask token.
        """
        if batch_size < 1:
            raise LanguageError(f"batch_size={batch_size}; expected at least 1")
        for name, share in (("mask_rate", mask_rate), ("mask_words", mask_words)):
            if share is not None and not 0.0 <= share <= 1.0:
                raise LanguageError(f"{name}={share}; expected a share between 0 and 1")
        if task == "mlm" and model.mask_id is None:
            raise LanguageError(
                f"task 'mlm' with {model.name}, whose tokenizer has no mask token; expected 'clm'"
            )
        self.corpus, self.task, self.batch_size, self.seed = corpus, task, batch_size, seed
        self.masks = (mask_rate, mask_words, tuple(sorted(set(mask_words_ids))), mask_only)
        self.blocks = np.arange(corpus.num_blocks) if blocks is None else np.asarray(blocks)
        if not len(self.blocks):
            raise LanguageError("no block is left to train on; expected more text")
        self._mask_id = model.mask_id
        special = model.special_ids
        self._special = torch.tensor(sorted(special), dtype=torch.int64)
        self._end = model.out_of_vocabulary_from
        ordinary = torch.arange(self._end)
        self._ordinary = ordinary[~torch.isin(ordinary, self._special)]
        self._rate = mask_rate
        self._words_rate = mask_rate if mask_words is None else mask_words
        self._words = torch.tensor(sorted(set(mask_words_ids)), dtype=torch.int64)
        self._next = Labeller(model, "next", special_labels=True)
        self._term_next, self._mask_only = term_next, mask_only

    @property
    def fingerprint(self) -> str:
        """Return a SHA-256 of what is predicted: text, blocks, masks and their order."""
        words = (self.task, self.batch_size, self.seed, self.blocks.tolist(), self.masks)
        return hashlib.sha256(f"{self.corpus.fingerprint} {words}".encode()).hexdigest()

    @property
    def steps_per_epoch(self) -> int:
        """Return the steps in an epoch, the last one perhaps smaller."""
        return -(-len(self.blocks) // self.batch_size)

    def epoch_of(self, step: int) -> int:
        """Return the epoch, from 0, of a step, from 0."""
        return step // self.steps_per_epoch

    def __call__(self, step: int, rank: int = 0, ranks: int = 1) -> TrainingBatch:
        """Make the batch of a step, from 0, on the CPU: every ``ranks``-th row for this rank.

        Fewer rows than ranks are a LanguageError.
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.argsort(self._random(ORDER, epoch, 0, len(self.blocks)), kind="stable")
        rows = self.blocks[order[place * self.batch_size : (place + 1) * self.batch_size]]
        if len(rows) < ranks:
            raise LanguageError(
                f"step {step} has {len(rows)} rows for {ranks} ranks; expected at least one each"
            )
        batch = self.corpus.take(rows[rank::ranks].tolist(), step)
        return self._causal(batch) if self.task == "clm" else self._masked(batch, epoch)

    def require_rows(self, steps: int, ranks: int) -> None:
        """Raise where some rank would have no row in one of the first steps."""
        last = len(self.blocks) - (self.steps_per_epoch - 1) * self.batch_size
        least = last if steps >= self.steps_per_epoch else self.batch_size
        if steps and least < ranks:
            raise LanguageError(
                f"{ranks} ranks share batches of {self.batch_size} blocks, the last of an epoch of "
                f"{last}; expected a block for each rank: another batch_size or number of ranks"
            )

    def __iter__(self) -> Iterator[TrainingBatch]:
        """Yield the batches of the first epoch."""
        return (self(step) for step in range(self.steps_per_epoch))

    def _random(self, stream: int, epoch: int, block: int, size: int) -> np.ndarray:
        # Raw 64-bit words of a counter-based generator: numpy keeps their stream stable.
        generator = np.random.Philox(key=self.seed, counter=[0, stream, epoch, block])
        return generator.random_raw(size).astype(np.uint64) >> np.uint64(11)

    def _causal(self, batch: Batch) -> TrainingBatch:
        labels = self._next(batch).labels
        special = torch.isin(labels, self._special)
        return TrainingBatch(
            batch.input_ids,
            batch.attention_mask,
            labels,
            labels if self._term_next else labels.masked_fill(special, IGNORE),
            _real_tokens(batch),
        )

    def _masked(self, batch: Batch, epoch: int) -> TrainingBatch:
        ids = batch.input_ids
        length = ids.shape[1]
        raw = [self._random(MASKS, epoch, int(block), 3 * length) for block in batch.blocks]
        words = torch.from_numpy(np.stack(raw).astype(np.int64)).view(len(raw), 3, length)
        draw, action, replacement = (words[:, i].double() * 2.0**-53 for i in range(3))
        # Of two plain numbers torch.where makes the default dtype, whatever a user has set.
        rates = torch.tensor([self._rate, self._words_rate], dtype=torch.float32)
        rate = rates[torch.isin(ids, self._words).long()]
        usable = batch.attention_mask.bool() & (ids < self._end) & ~torch.isin(ids, self._special)
        predicted = usable & (draw < rate)
        labels = ids.masked_fill(~predicted, IGNORE)
        masked, swapped = predicted & (action < 0.8), predicted & (action >= 0.9)
        if self._mask_only:
            masked, swapped = predicted, torch.zeros_like(predicted)
        assert self._mask_id is not None
        random_ids = self._ordinary[(replacement * len(self._ordinary)).long()]
        inputs = torch.where(swapped, random_ids, ids.masked_fill(masked, self._mask_id))
        term = self._next(batch).labels if self._term_next else labels.masked_fill(~masked, IGNORE)
        return TrainingBatch(inputs, batch.attention_mask, labels, term, _real_tokens(batch))


def _real_tokens(batch: Batch) -> int:
    return int((batch.attention_mask.bool() & ~batch.special_mask).sum())
