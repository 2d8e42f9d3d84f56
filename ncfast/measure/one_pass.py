"""The pass of a measurement over the text: forward, update, save, resume.

Statistics, position and counters travel in one file, so that they can never disagree: a run killed
at any moment goes on from the last save and repeats the batches after it, to the same digits.
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
from ..running.identity import differences
from ..running.progress import stop_request, token_bar
from ..statistics import ClassStatistics
from .counters import Counters
from .layers import LayerRun

STATE_SCHEMA = "ncfast-measure-state/1"
METADATA_KEY = "measure"


class MeasureInterrupted(KeyboardInterrupt):
    """Tell that a run stopped on request after saving; ``state`` is the file, or None."""

    def __init__(self, done: int, total: int, state: Path | None, unit: str = "batches") -> None:
        self.done, self.total, self.state = done, total, state
        super().__init__(f"stopped after {done} of {total} {unit}")


def load_state(
    path: Path, identity: Mapping[str, Any], device: torch.device | str = "cpu"
) -> tuple[ClassStatistics, Counters]:
    """Load the state of an earlier run of the same measurement.

    Args:
        path: the statistics file.
        identity: what decides the result of this run.
        device: where the statistics should live.

    Returns:
        The statistics and the counters.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such file, or of another model, text or settings; the message names
            what differs.

    Example:
        >>> load_state(Path("out/statistics.safetensors"), identity)  # doctest: +SKIP
    """
    try:
        stats = ClassStatistics.load(path, device)
    except DataError as error:
        raise DataError(f"{error}; start anew with --force, or in another folder") from None
    try:
        state = json.loads(stats.metadata[METADATA_KEY])
        counted, schema, found = state["counters"], state["schema"], state["identity"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise DataError(f"{path}: not the state of a measurement") from None
    if schema != STATE_SCHEMA:
        raise DataError(f"{path}: state of schema {schema}; this version reads {STATE_SCHEMA}")
    if not isinstance(found, dict):
        raise DataError(f"{path}: not the state of a measurement")
    try:
        counters = Counters.parse(counted)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    if counters.kept != stats.tokens:
        raise DataError(
            f"{path}: counters and statistics disagree: kept is {counters.kept}, and the classes "
            f"hold {stats.tokens} tokens"
        )
    if different := differences(found, identity):
        raise DataError(
            f"{path}: the state of another measurement: {'; '.join(different)}; "
            "choose another folder, or the same settings"
        )
    return stats, counters


@dataclass
class MeasurePass:
    """Hold everything one pass needs.

    Args:
        model: gives the features.
        corpus: gives the batches.
        labeller: gives their labels.
        stats: takes features and labels.
        identity: what decides the result; saved with the state and compared on resume.
        batch_size: blocks in a batch.
        mask_passes: how often the text is read, with other masks each time.
        state_path: where to save; None never saves.
        save_every_seconds: how often to save.
        progress: show a bar on stderr.
        counters: where the pass stands.
        layers: takes the features of other layers along; None measures the head's alone.

    Example:
        >>> MeasurePass(model, corpus, labeller, stats, {}, 32).run()  # doctest: +SKIP
    """

    model: LanguageModel
    corpus: Corpus
    labeller: Labeller
    stats: ClassStatistics
    identity: Mapping[str, Any]
    batch_size: int
    mask_passes: int = 1
    state_path: Path | None = None
    save_every_seconds: float = 60.0
    progress: bool = True
    counters: Counters = field(default_factory=Counters)
    layers: LayerRun | None = None

    def __post_init__(self) -> None:
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

        Raises:
            MeasureInterrupted: Ctrl-C or SIGTERM; the state was saved first.
            OSError: the state cannot be saved; the one saved before is untouched.
            ValueError: features or labels cannot be used.

        Example:
            >>> measure_pass.run()  # doctest: +SKIP
        """
        if self.counters.position >= self.total:
            return
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
                tokens = self._step(mask_pass, batch)
                self.counters.seconds += time.perf_counter() - start
                advance(tokens)
                stop = stopping()
                if stop or time.perf_counter() - last_save >= self.save_every_seconds:
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
        counters, device = self.counters, self.model.device
        labelled = self.labeller(batch, mask_pass)
        start = self._now()
        labels = labelled.labels.to(device)
        inputs = labelled.input_ids.to(device), labelled.attention_mask.to(device)
        try:
            with torch.no_grad():
                if self.layers is None:
                    features, aside = self.model.features(*inputs), 0.0
                else:
                    features, aside = self.layers.step(*inputs, labels)
            middle = self._now() - aside  # as if the layers' statistics came after the model
            labels = labels.reshape(-1)
            self.stats.update(features.reshape(-1, features.shape[-1]), labels)
        except ValueError as error:
            raise DataError(f"batch {counters.position} of {self.total}: {error}") from error
        end = self._now()
        counters.forward_seconds += middle - start
        counters.statistics_seconds += end - middle
        counters.kept += labelled.kept
        for reason, count in labelled.dropped.items():
            counters.dropped[reason] = counters.dropped.get(reason, 0) + count
        tokens = int((batch.attention_mask.bool() & ~batch.special_mask).sum())
        counters.tokens += tokens
        counters.position += 1
        return tokens

    def _now(self) -> float:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)  # or the time would be another step's
        return time.perf_counter()

    def save(self) -> None:
        """Save statistics, position and counters as one file, atomically.

        Raises:
            OSError: it cannot be written; the file saved before is untouched.

        Example:
            >>> measure_pass.save()  # doctest: +SKIP
        """
        if self.state_path is None:
            return
        start = time.perf_counter()
        state = {
            "schema": STATE_SCHEMA,
            "identity": dict(self.identity),
            "counters": asdict(self.counters),
        }
        if self.layers is not None:  # before the state that names its position
            self.layers.save(self.state_path.parent, self.counters.position)
        self.stats.save(self.state_path, {METADATA_KEY: json.dumps(state)})
        if self.layers is not None:
            self.layers.tidy(self.state_path.parent, self.counters.position)
        self.counters.saving_seconds += time.perf_counter() - start
