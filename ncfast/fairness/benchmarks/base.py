"""What every benchmark is: items from files, records from a scorer, statistics from records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ...language import LanguageModel
from ..data import DataFolder, read_table
from ..errors import EvaluationError
from ..groups import Group, groups_of
from ..records import Record
from ..requests import Scorer
from ..statistic import Statistic

__all__ = ["Benchmark", "PredictionsOnly"]


class Benchmark(ABC):
    """Read items, ask a model about them, and say what the answers amount to.

    A benchmark is one file: a subclass of this, listed in ``benchmarks/__init__.py``.

    Attributes:
        name: as ``--on`` and ``evaluation.json`` call it.
        kinds: kinds of model it can ask.
        source: paper and equation or code its scores come from.
        needs: file names that :meth:`read` looks for, for ``--on all``.
        first_choice: what the first of :meth:`choices` is; None where items are no such choices.
        reading: what its metrics, variants and subsets mean, for the page.
        attribute: the one bias it is about; None: several, or none.
        asks_only_tokens: whether tokens' log-probabilities are all it asks of a model (the uniform
            control has nothing else).
        trains: whether it trains a copy of the model.
        settings: what its answers depend on beside its items.
    """

    name: str
    kinds: tuple[str, ...] = ("masked", "causal")
    source: str
    reading: str = ""
    needs: tuple[str, ...] = ()
    first_choice: str | None = None
    attribute: str | None = None
    asks_only_tokens: bool = True
    trains: bool = False
    settings: tuple[Any, ...] = ()

    def available(self, data: DataFolder) -> bool:
        """Tell whether the files are there."""
        return data.has(*self.needs)

    def hours(self, items: list[Any], model: LanguageModel) -> str:
        """Return why ``--on all`` leaves the benchmark out for a model, or nothing."""
        return ""

    @abstractmethod
    def read(self, data: DataFolder, attribute: str) -> list[Any]:
        """Read the items of an attribute, every row checked."""

    def only(self, items: list[Any], subsets: Collection[str]) -> list[Any]:
        """Return the items that scores of these subsets are of; all, where it cannot be told."""
        return items

    @abstractmethod
    def measure(self, items: list[Any], scorer: Scorer) -> list[Record]:
        """Ask a model about the items."""

    def statistics(self, records: Sequence[Record]) -> list[Statistic]:
        """Say what the records amount to: the scores of every variant and subset."""
        return [score for group in groups_of(records) for score in self.scores(group)]

    def scores(self, group: Group) -> list[Statistic]:
        """Return the scores of one variant and subset."""
        raise NotImplementedError(f"{self.name} has no scores")

    def choices(self, items: list[Any]) -> list[dict[str, Any]]:
        """Return each item as whole texts to choose among, for other harnesses."""
        raise EvaluationError(f"the items of {self.name} are no choices among whole texts")

    def read_predictions(self, path: Path, data: DataFolder) -> list[Record]:
        """Read answers made elsewhere, in the benchmark's own published format."""
        raise EvaluationError(
            f"{self.name} has no published format of predictions; --predictions takes those of "
            "stereoset, winobias, bbq, bias-nli and bias-in-bios"
        )


class PredictionsOnly(Benchmark):
    """Score a CSV or JSONL of predictions made elsewhere, a row an item; no model is asked."""

    kinds = ()

    def available(self, data: DataFolder) -> bool:
        """Tell that it needs predictions."""
        return False

    def read(self, data: DataFolder, attribute: str) -> list[Any]:
        """Say that it needs predictions."""
        raise EvaluationError(f"{self.name} scores predictions alone; expected --predictions FILE")

    def measure(self, items: list[Any], scorer: Scorer) -> list[Record]:
        """Say that it needs predictions."""
        raise EvaluationError(f"{self.name} scores predictions alone; expected --predictions FILE")

    @abstractmethod
    def record(self, path: Path, number: int, fields: Any) -> Record:
        """Read one row."""

    def read_predictions(self, path: Path, data: DataFolder) -> list[Record]:
        """Read the table."""
        records = [self.record(path, number, fields) for number, fields in read_table(path)]
        if not records:
            raise EvaluationError(f"{path.name} has no rows")
        return records
