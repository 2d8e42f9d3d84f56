"""GLUE tasks: does a model still learn a task as well, fine-tuned with a linear head on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...language import LanguageModel
from ..data import DataFolder, one_of
from ..engine import ModelScorer
from ..errors import EvaluationError, row_error
from ..groups import Group, counted
from ..records import Record
from ..requests import Scorer
from ..statistic import Statistic, mean
from .base import Benchmark
from .glue_items import TASKS, Example
from .glue_training import EPOCHS, are_cut, fine_tune
from .winogender import correlation

# Of two cores, in training. A word is 1.4 tokens, and a token 6 operations per weight.
FLOPS = 50e9


class Glue(Benchmark):
    """Fine-tune a copy of the model on a task and score its dev set.

    A linear layer on the first token's last hidden state (the last token's, for a causal model),
    AdamW, 3 epochs of batches of 32, 10 % warm-up and linear decay, at most 128 tokens; the
    learning rate is 2e-5, as run_glue's, and 1e-3 below a width of 256, where 2e-5 does not train.
    Below that width steps take one CPU thread, whatever is asked for, and ``evaluate`` runs tasks
    side by side: their bits are the same.
    The model given is left as it was. Accuracy and Matthews in per cent. Intervals resample
    examples; they hold no seeds.

    Args:
        task: ``sst2``, ``rte``, ``stsb``, ``cola`` or ``mrpc``.
        seed: of the new layer, the order and dropout.
        epochs: over the training set.

    Source: Wang et al. 2018 (GLUE); the fairness paper's Table 9.
    """

    source = "Wang et al. 2018 (GLUE); arXiv 2410.04472, Table 9"
    reading = (
        "Of a copy of the model, fine-tuned on the task, on its dev set; in per cent, but for "
        "correlations."
    )
    asks_only_tokens, trains = False, True

    def __init__(self, task: str, seed: int = 0, epochs: int = EPOCHS) -> None:
        self.name, self._task, self._seed, self._epochs = task, TASKS[task], seed, epochs
        self.settings = (seed, epochs)

    def _path(self, data: DataFolder, split: str) -> Path | None:
        folder = self._task.folder.lower()
        found = data.find_all(*self._task.files[split])
        own = [p for p in found if p.parent.name.lower() == folder]
        return one_of(self.name, own) if own else None

    def available(self, data: DataFolder) -> bool:
        """Tell whether both files are there."""
        return all(self._path(data, split) is not None for split in ("train", "dev"))

    def hours(self, items: list[Example], model: LanguageModel) -> str:
        """Say where fine-tuning takes more than an hour on two cores, by tokens and weights."""
        if model.device.type != "cpu":
            return ""
        words = sum(len(text.split()) for e in items if e.split == "train" for text in e.texts)
        weights = sum(p.numel() for p in model.body.parameters())
        hours = 6 * weights * 1.4 * words * self._epochs / FLOPS / 3600
        return f"its fine-tuning takes about {hours:.0f} hours on a CPU" if hours > 1 else ""

    def read(self, data: DataFolder, attribute: str) -> list[Example]:
        """Read train and dev."""
        found = []
        for split in ("train", "dev"):
            path = self._path(data, split)
            if path is None:
                raise EvaluationError(
                    f"{self.name}: no {self._task.folder}/{self._task.files[split][0]} is below "
                    f"{data.spec}"
                )
            rows = self._task.read(path)
            if not rows:
                raise EvaluationError(f"{self.name}: {path.name} has no rows")
            for n, (texts, label) in enumerate(rows, 1):
                if not all(text.strip() for text in texts):
                    raise row_error(path, n, "sentence", "empty; expected text")
                found.append(Example(split, n, texts, label))
        return found

    def measure(self, items: list[Example], scorer: Scorer) -> list[Record]:
        """Fine-tune a copy, predict dev."""
        if not isinstance(scorer, ModelScorer):
            raise EvaluationError(f"{self.name} is fine-tuned; expected a model")
        train = [e for e in items if e.split == "train"]
        dev = [e for e in items if e.split == "dev"]
        classes, seed, epochs = self._task.classes, self._seed, self._epochs
        predicted = fine_tune(
            scorer.model, train, dev, classes, seed, epochs=epochs, progress=scorer.progress
        )
        return [
            Record(
                str(e.number),
                "fine-tuned",
                ("dev",),
                str(e.number),
                {"label": e.label, "prediction": value},
                labels={"cut": "yes"} if cut else {},
            )
            for e, value, cut in zip(dev, predicted, are_cut(scorer.model, dev), strict=True)
        ]

    def scores(self, group: Group) -> list[Statistic]:
        """Return the task's metrics."""
        y, p = group.values("label", "prediction")
        right = (y == p).astype(float)
        accuracy = "accuracy" in self._task.metrics
        cut = sum("cut" in r.labels for r in group.records)
        note = counted(cut, "examples cut to the first tokens")
        make = group.maker(note, verdicts=right if accuracy else None)
        values: dict[str, Any] = {
            "accuracy": mean(right, None, 100),
            "matthews": _percent(correlation(y, p, ranks=False)),
            "pearson": correlation(y, p, ranks=False),
            "spearman": correlation(y, p, ranks=True),
        }
        bounds = {"accuracy": (0.0, 100.0), "matthews": (-100.0, 100.0)}
        return [
            make(metric, values[metric], bounds=bounds.get(metric, (-1.0, 1.0)))
            for metric in self._task.metrics
        ]


def _percent(value: Any) -> Any:
    return lambda weights: 100 * value(weights)
