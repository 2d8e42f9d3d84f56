"""NC4: a second pass, over held-out text, with the finished statistics of the first.

It keeps two counts per class and saves nothing: an interrupted run starts this pass anew, while the
statistics of the first pass, which took the time, are on the disk.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..agreement import NearestCenterAgreement
from ..errors import DataError
from ..language import Corpus, Labeller, LanguageError, LanguageModel
from ..ranks import Ranks
from ..running.progress import stop_request, token_bar
from ..statistics import ClassStatistics
from .one_pass import MeasureInterrupted
from .sets import PlannedSet

# Less is explained by a few quotations or headlines; more than the second is the same text, perhaps
# in another order or cut elsewhere.
NOTED_OVERLAP, REJECTED_OVERLAP = 0.01, 0.9


@dataclass
class HeldOutText:
    """Hold the text of the second pass, and what came of it."""

    sources: Sequence[str]  # the texts as the user gave them
    corpus: Corpus  # their tokens
    overlap: float  # share of them that occurs in the measured text, in stretches of 32 tokens
    bias: bool  # whether the head's own bias takes part in its decisions
    kept: int = 0  # positions of a class, filled in
    unseen: int = 0  # those of classes that the measured text never showed, filled in
    # positions without a class, by reason, filled in
    dropped: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0  # time of the pass, filled in

    @classmethod
    def read(
        cls,
        texts: Sequence[str],
        model: LanguageModel,
        measured: Corpus,
        max_tokens: int | None,
        bias: bool,
        progress: bool,
        text_column: str | None = None,
    ) -> HeldOutText:
        """Read held-out text, as the measured text is read; LanguageError if all of it was
        measured.

        ``bias``: whether the head's bias takes part, where it has one.
        """
        corpus = Corpus.from_spec(
            texts,
            model.tokenizer,
            max_tokens=max_tokens,
            block_size=measured.block_size,
            text_column=text_column,
            progress=progress,
        )
        overlap = measured.overlap(corpus)
        if overlap > REJECTED_OVERLAP:
            raise LanguageError(
                f"the held-out text {', '.join(texts)} is the measured text or a part of it "
                f"({overlap:.0%} of it was measured); expected text that the class means "
                "were not made of"
            )
        return cls(list(texts), corpus, overlap, bias and model.head_bias is not None)

    def describe(self) -> dict[str, Any]:
        """Return the ``held_out`` part of a report."""
        notes = [f"of the held-out text, {note}" for note in self.corpus.notes]
        if self.overlap >= NOTED_OVERLAP:
            notes.append(
                f"{self.overlap:.0%} of the held-out text also stands in the measured text, so "
                "NC4 is higher than on text the statistics have not seen"
            )
        return {
            "sources": list(self.sources),
            "documents": self.corpus.documents,
            "tokens": self.corpus.tokens,
            "unknown_tokens": self.corpus.unknown_tokens,
            "fingerprint": self.corpus.fingerprint,
            "kept": self.kept,
            "unseen": self.unseen,
            "dropped": self.dropped,
            "overlap": self.overlap,
            "bias": self.bias,
            "notes": notes,
        }

    def measure(
        self,
        model: LanguageModel,
        labeller: Labeller,
        stats: ClassStatistics,
        sets: Mapping[str, PlannedSet],
        batch_size: int,
        progress: bool,
        ranks: Ranks | None = None,
    ) -> dict[str, float]:
        """Compare head and nearest class mean, token by token: set name or "vocabulary" ->
        agreement.

        ``stats`` are finished, and every rank has them. NaN for a set without a held-out token.
        Raises MeasureInterrupted at Ctrl-C or SIGTERM, and DataError where features are not finite.
        """
        start, ranks = time.perf_counter(), ranks or Ranks()
        bias = model.head_bias if self.bias else None
        agreement = NearestCenterAgreement(
            stats, model.head_weight.detach(), None if bias is None else bias.detach()
        )
        self.kept, self.unseen, self.dropped = 0, 0, {}
        total = self.corpus.num_batches(batch_size)
        with (
            token_bar(self.corpus.tokens, 0, "held-out", progress) as advance,
            stop_request() as stopping,
        ):
            for batch in self.corpus.batches(batch_size):
                failure = None
                try:
                    self._step(model, labeller, stats, agreement, batch, total=total, ranks=ranks)
                except Exception as error:
                    if ranks.size == 1:
                        raise
                    failure = error
                (stop,) = ranks.agreed(failure, stopping())
                advance(int((batch.attention_mask.bool() & ~batch.special_mask).sum()))
                if stop and batch.index + 1 < total:
                    raise MeasureInterrupted(batch.index + 1, total, None, "held-out batches")
        if ranks.size > 1 and not ranks.same_rows:
            ranks.exchange(agreement.all_reduce)
        found = {"vocabulary": agreement.compute()}
        found |= {name: agreement.compute(planned.ids) for name, planned in sets.items()}
        self.seconds = time.perf_counter() - start
        return found

    def _step(
        self,
        model: LanguageModel,
        labeller: Labeller,
        stats: ClassStatistics,
        agreement: NearestCenterAgreement,
        batch: Any,
        total: int,
        ranks: Ranks,
    ) -> None:
        labelled = labeller(batch)
        # Counted of the whole batch, on every rank; put through the model are a rank's own rows.
        everything = labelled.labels.reshape(-1).to(model.device)
        everything = everything[everything >= 0]
        self.kept += len(everything)
        self.unseen += int((stats.counts[everything] == 0).sum())
        for reason, count in labelled.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count
        own = ranks.rows
        labels = labelled.labels[own].reshape(-1).to(model.device)
        if not len(labels):
            return
        with torch.no_grad():
            features = model.features(
                labelled.input_ids[own].to(model.device),
                labelled.attention_mask[own].to(model.device),
            ).reshape(len(labels), -1)
        # Two argmaxes over the vocabulary for every row: rows without a class are not worth them.
        rows = (labels >= 0).nonzero()[:, 0]
        try:
            agreement.update(features[rows], labels[rows])
        except ValueError as error:
            raise DataError(f"held-out batch {batch.index} of {total}: {error}") from error
