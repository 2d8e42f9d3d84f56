"""The pass of a measurement over the text: forward, update, save, resume.

Statistics, position and counters travel in one file, so that they can never disagree: a run killed
at any moment goes on from the last save and repeats the batches after it, to the same digits.

Several ranks share every batch: each puts every n-th row of it through the model. All of them label
and count the whole batch, so that position and counters are the same everywhere, and what one
process saved a group can go on with. At a save the statistics meet in the first rank's. Ranks that
hold one model together see the same rows: of these the first one's statistics count.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import DataError
from ..language import Batch, Corpus, Labeller, LanguageModel
from ..language.labels import LabelledBatch
from ..ranks import PeerLost, Ranks
from ..running.progress import stop_request, token_bar
from ..statistics import ClassStatistics
from .counters import Counters
from .layers import LayerRun
from .state import METADATA_KEY, STATE_SCHEMA


class MeasureInterrupted(KeyboardInterrupt):
    """Tell that a run stopped on request after saving; ``state`` is the file, or None."""

    def __init__(self, done: int, total: int, state: Path | None, unit: str = "batches") -> None:
        self.done, self.total, self.state = done, total, state
        super().__init__(f"stopped after {done} of {total} {unit}")


@dataclass
class MeasurePass:
    """Hold everything one pass needs."""

    model: LanguageModel  # gives the features
    corpus: Corpus  # gives the batches
    labeller: Labeller  # gives their labels
    stats: ClassStatistics  # takes features and labels
    # what decides the result; saved with the state and compared on resume
    identity: Mapping[str, Any]
    batch_size: int  # blocks in a batch
    mask_passes: int = 1  # how often the text is read, with other masks each time
    state_path: Path | None = None  # where to save; None never saves
    save_every_seconds: float = 60.0  # how often to save
    progress: bool = True  # show a bar on stderr
    counters: Counters = field(default_factory=Counters)  # where the pass stands
    # takes the features of other layers along; None measures the head's alone
    layers: LayerRun | None = None
    # the processes that share every batch; the first one saves
    ranks: Ranks = field(default_factory=Ranks)

    def __post_init__(self) -> None:
        # Where the ranks' statistics last met, and where they were last saved.
        self._met = self._saved = self.counters.position
        if not 0 <= self.counters.position <= self.total:
            raise DataError(
                f"{self.state_path}: its position is {self.counters.position}; "
                f"expected 0 to {self.total} batches"
            )

    @property
    def total(self) -> int:
        """Return how many batches the whole pass has."""
        return self.mask_passes * self.corpus.num_batches(self.batch_size)

    def run(self) -> None:
        """Go through the rest of the text, saving now and then and at the end.

        Every rank has the statistics of all of them afterwards. MeasureInterrupted at Ctrl-C or
        SIGTERM, the state saved; PeerLost where another rank has ended; OSError where the state
        cannot be saved, the one before untouched.
        """
        if self.counters.position < self.total:
            try:
                self._run()
            except PeerLost as error:
                raise PeerLost(f"{error}; {self.way_on()}") from error
        elif self.ranks.size > 1:  # finished before: only the first rank has the statistics
            self._meet(last=True)

    @property
    def _apart(self) -> bool:
        """Whether each rank has seen other rows."""
        return self.ranks.size > 1 and not self.ranks.same_rows

    def way_on(self) -> str:
        """Say what was saved."""
        if self.state_path is None:
            return "nothing was saved"
        return f"saved after {self._saved} of {self.total} batches, go on with --resume"

    def _run(self) -> None:
        if self.ranks.same_rows and self.counters.position:  # resumed by the first rank
            self._meet(last=False)
        # Saving before the first batch finds a full disk or a closed folder now, not in an hour.
        self.save()
        last_save = time.perf_counter()
        total = self.corpus.tokens * self.mask_passes
        with (
            token_bar(total, self.counters.tokens, "measuring", self.progress) as advance,
            stop_request() as stopping,
        ):
            for mask_pass, batch in self._rest():
                start = time.perf_counter()
                tokens, failure = 0, None
                try:
                    tokens = self._step(mask_pass, batch)
                except Exception as error:
                    if self.ranks.size == 1:
                        raise
                    failure = error
                late = time.perf_counter() - last_save >= self.save_every_seconds
                # A signal reaches one rank, and clocks differ: saving is a thing of all.
                stop, due = self.ranks.agreed(failure, stopping(), late)
                self.counters.seconds += time.perf_counter() - start
                advance(tokens)
                if (stop or due) and self.counters.position < self.total:
                    self.save()
                    last_save = time.perf_counter()
                if stop and self.counters.position < self.total:
                    raise MeasureInterrupted(self.counters.position, self.total, self.state_path)
        self.save()

    def _rest(self) -> Iterator[tuple[int, Batch]]:
        per_pass = self.corpus.num_batches(self.batch_size)
        first_pass, start = divmod(self.counters.position, per_pass)
        for mask_pass in range(first_pass, self.mask_passes):
            for batch in self.corpus.batches(self.batch_size, start):
                yield mask_pass, batch
            start = 0

    def _step(self, mask_pass: int, batch: Batch) -> int:
        """Put one batch through model and statistics; return its real tokens."""
        counters = self.counters
        labelled = self.labeller(batch, mask_pass)
        if len(labelled.labels[self.ranks.rows]):  # the last batch may have a row for some alone
            try:
                self._update(labelled)
            except ValueError as error:
                raise DataError(f"batch {counters.position} of {self.total}: {error}") from error
        counters.kept += labelled.kept
        for reason, count in labelled.dropped.items():
            counters.dropped[reason] = counters.dropped.get(reason, 0) + count
        tokens = int((batch.attention_mask.bool() & ~batch.special_mask).sum())
        counters.tokens += tokens
        counters.position += 1
        return tokens

    def _update(self, labelled: LabelledBatch) -> None:
        """Put this rank's rows through model and statistics."""
        device, own = self.model.device, self.ranks.rows
        start = self._now()
        labels = labelled.labels[own].to(device)
        inputs = labelled.input_ids[own].to(device), labelled.attention_mask[own].to(device)
        with torch.no_grad():
            if self.layers is None:
                features, aside = self.model.features(*inputs), 0.0
            else:
                features, aside = self.layers.step(*inputs, labels)
        middle = self._now() - aside  # as if the layers' statistics came after the model
        labels = labels.reshape(-1)
        self.stats.update(features.reshape(-1, features.shape[-1]), labels)
        self.counters.forward_seconds += middle - start
        self.counters.statistics_seconds += self._now() - middle

    def _meet(self, last: bool) -> None:
        """Bring the statistics of all ranks together: in the first one's, at last in all.

        Where all have seen the same rows, each gets the first one's.
        """
        states = [self.stats, *([] if self.layers is None else [self.layers.stats])]
        for state in states:
            if self.ranks.rank and not self._apart:
                state.reset()
            self.ranks.exchange(state.all_reduce)
            if self.ranks.rank and self._apart and not last:
                state.reset()  # what all ranks have seen is in the first one's
        self._met = self.counters.position

    def _now(self) -> float:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)  # or the time would be another step's
        return time.perf_counter()

    def save(self) -> None:
        """Save statistics, position and counters as one file, atomically.

        All ranks call this together; the first one writes.
        """
        start, position = time.perf_counter(), self.counters.position
        if self.ranks.size > 1 and self._met < position:
            if position < self.total and self.state_path is None:
                return
            self._meet(last=position == self.total)
        self._met = position
        if self.state_path is None:
            return
        with self.ranks.sharing_errors():
            if self.ranks.rank == 0:
                self._write(self.state_path)
        self._saved = position
        self.counters.saving_seconds += time.perf_counter() - start

    def _write(self, path: Path) -> None:
        state = {
            "schema": STATE_SCHEMA,
            "identity": dict(self.identity),
            "counters": asdict(self.counters),
        }
        if self.layers is not None:  # before the state that names its position
            self.layers.save(path.parent, self.counters.position)
        self.stats.save(path, {METADATA_KEY: json.dumps(state)})
        if self.layers is not None:
            self.layers.tidy(path.parent, self.counters.position)
