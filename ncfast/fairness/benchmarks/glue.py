"""GLUE tasks: does a model still learn a task as well, fine-tuned with a linear head on it."""

from __future__ import annotations

import copy
import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...language.packing import padded
from ..data import DataFolder, read_text
from ..engine import ModelScorer
from ..errors import EvaluationError, row_error
from ..records import Record, select
from ..requests import Scorer
from ..statistic import Statistic, mean
from .base import Benchmark
from .winogender import correlation

EPOCHS, BATCH, WARMUP, LENGTH = 3, 32, 0.1, 128


@dataclass(frozen=True)
class Example:
    """Hold one or two texts with a class or a score."""

    split: str
    number: int
    texts: tuple[str, ...]
    label: float


@dataclass(frozen=True)
class Task:
    """Say where a task's files are, what their columns mean, and how it is scored."""

    folder: str
    files: Mapping[str, tuple[str, ...]]
    read: Callable[[Path], list[tuple[tuple[str, ...], float]]]
    classes: int
    metrics: tuple[str, ...]


def _columns(path: Path, delimiter: str, quoted: bool) -> list[list[str]]:
    text = read_text(path).replace("\r\n", "\n")
    stream = io.StringIO(text, newline="")
    if quoted:
        return [row for row in csv.reader(stream, delimiter=delimiter) if row]
    return [row for row in csv.reader(stream, delimiter=delimiter, quoting=csv.QUOTE_NONE) if row]


def _number(path: Path, row: int, field: str, given: str, allowed: Sequence[float] | None) -> float:
    try:
        value = float(given)
    except ValueError as error:
        raise row_error(path, row, field, f"{given!r}; expected a number") from error
    if allowed is not None and value not in allowed:
        raise row_error(path, row, field, f"{given!r}; expected one of {list(allowed)}")
    return value


def read_sst2(path: Path) -> list[tuple[tuple[str, ...], float]]:
    """Read text and label; with GLUE's header or without one."""
    rows = _columns(path, "\t", False)
    start = 1 if rows and rows[0] == ["sentence", "label"] else 0
    return [
        ((r[0],), _number(path, n, "label", r[-1], (0, 1))) for n, r in enumerate(rows[start:], 1)
    ]


def read_rte(path: Path) -> list[tuple[tuple[str, ...], float]]:
    """Read premise, hypothesis and whether it is entailed, by GLUE's header or without one."""
    names = {"entailment": 0.0, "not_entailment": 1.0, "0": 0.0, "1": 1.0}
    found: list[tuple[tuple[str, ...], float]] = []
    rows = _columns(path, "\t", False)
    start = 1 if rows and rows[0][-1].strip() == "label" else 0
    for number, row in enumerate(rows[start:], 1):
        if len(row) < 3 or row[-1].strip() not in names:
            raise row_error(path, number, "label", f"{row[-1]!r}; expected one of {list(names)}")
        found.append(((row[-3], row[-2]), names[row[-1].strip()]))
    return found


def read_stsb(path: Path) -> list[tuple[tuple[str, ...], float]]:
    """Read two sentences and their similarity, 0 to 5."""
    found: list[tuple[tuple[str, ...], float]] = []
    for number, row in enumerate(_columns(path, ",", True), 1):
        if len(row) != 3:
            raise row_error(path, number, "score", f"{len(row)} fields; expected 3")
        found.append(((row[0], row[1]), _number(path, number, "score", row[2], None)))
    return found


def read_cola(path: Path) -> list[tuple[tuple[str, ...], float]]:
    """Read GLUE's four columns: source, label, author's mark, sentence."""
    found: list[tuple[tuple[str, ...], float]] = []
    for number, row in enumerate(_columns(path, "\t", False), 1):
        if len(row) != 4:
            raise row_error(path, number, "sentence", f"{len(row)} fields; expected 4")
        found.append(((row[3],), _number(path, number, "label", row[1], (0, 1))))
    return found


def read_mrpc(path: Path) -> list[tuple[tuple[str, ...], float]]:
    """Read GLUE's five columns with their header: quality, two ids, two sentences."""
    found: list[tuple[tuple[str, ...], float]] = []
    for number, row in enumerate(_columns(path, "\t", False)[1:], 1):
        if len(row) != 5:
            raise row_error(path, number, "#2 String", f"{len(row)} fields; expected 5")
        found.append(((row[3], row[4]), _number(path, number, "Quality", row[0], (0, 1))))
    return found


_TSV = {"train": ("train.tsv",), "dev": ("dev.tsv",)}
TASKS = {
    "sst2": Task("SST-2", _TSV, read_sst2, 2, ("accuracy",)),
    "rte": Task("RTE", _TSV, read_rte, 2, ("accuracy",)),
    "stsb": Task(
        "STS-B",
        {"train": ("stsb-en-train.csv", "train.csv"), "dev": ("stsb-en-dev.csv", "dev.csv")},
        read_stsb,
        1,
        ("pearson", "spearman"),
    ),
    "cola": Task("CoLA", _TSV, read_cola, 2, ("matthews",)),
    "mrpc": Task(
        "MRPC",
        {
            "train": ("train.tsv", "msr_paraphrase_train.txt"),
            "dev": ("dev.tsv", "msr_paraphrase_test.txt"),
        },
        read_mrpc,
        2,
        ("accuracy", "matthews"),
    ),
}


class Glue(Benchmark):
    """Fine-tune a copy of the model on a task and score its dev set.

    A linear layer on the first token's last hidden state (the last token's, for a causal model),
    AdamW, 3 epochs of batches of 32, 10 % warm-up and linear decay, at most 128 tokens; the
    learning rate is 2e-5, as run_glue's, and 1e-3 below a width of 256, where 2e-5 does not train.
    The model given is left as it was. Accuracy and Matthews in per cent. Intervals resample
    examples; they hold no seeds.

    Args:
        task: ``sst2``, ``rte``, ``stsb``, ``cola`` or ``mrpc``.
        seed: of the new layer, the order and dropout.
        epochs: over the training set.

    Source: Wang et al. 2018 (GLUE); the fairness paper's Table 9.
    """

    source = "Wang et al. 2018 (GLUE); arXiv 2410.04472, Table 9"
    asks_only_tokens = False

    def __init__(self, task: str, seed: int = 0, epochs: int = EPOCHS) -> None:
        self.name, self._task, self._seed, self._epochs = task, TASKS[task], seed, epochs

    def _path(self, data: DataFolder, split: str) -> Path | None:
        folder = self._task.folder.lower()
        found = data.find_all(*self._task.files[split])
        return next((p for p in found if p.parent.name.lower() == folder), None)

    def available(self, data: DataFolder) -> bool:
        """Tell whether both files are there."""
        return all(self._path(data, split) is not None for split in ("train", "dev"))

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
            found += [Example(split, n, texts, label) for n, (texts, label) in enumerate(rows, 1)]
        return found

    def measure(self, items: list[Example], scorer: Scorer) -> list[Record]:
        """Fine-tune a copy, predict dev."""
        if not isinstance(scorer, ModelScorer):
            raise EvaluationError(f"{self.name} is fine-tuned; expected a model")
        train = [e for e in items if e.split == "train"]
        dev = [e for e in items if e.split == "dev"]
        predicted = fine_tune(
            scorer.model, train, dev, self._task.classes, self._seed, epochs=self._epochs
        )
        return [
            Record(
                str(e.number),
                "fine-tuned",
                ("dev",),
                str(e.number),
                {"label": e.label, "prediction": value},
            )
            for e, value in zip(dev, predicted, strict=True)
        ]

    def statistics(self, records: Sequence[Record]) -> list[Statistic]:
        """Return the task's metrics."""
        chosen = select(records, "fine-tuned", "dev")
        y, p = (np.asarray([r.values[k] for r in chosen]) for k in ("label", "prediction"))
        shared: dict[str, Any] = dict(
            items=[r.item for r in chosen], clusters=[r.cluster for r in chosen]
        )
        values: dict[str, Any] = {}
        for metric in self._task.metrics:
            if metric == "accuracy":
                right = (y == p).astype(float)
                values[metric] = mean(right, None, 100)
                shared["verdicts"] = right
            elif metric == "matthews":
                values[metric] = _percent(correlation(y, p, ranks=False))
            else:
                values[metric] = correlation(y, p, ranks=metric == "spearman")
        return [Statistic("dev", "fine-tuned", name, v, **shared) for name, v in values.items()]


def _percent(value: Any) -> Any:
    return lambda weights: 100 * value(weights)


def fine_tune(
    language: Any,
    train: list[Example],
    dev: list[Example],
    classes: int,
    seed: int,
    epochs: int,
) -> list[float]:
    """Fine-tune a copy of a model with a linear layer; return its predictions of dev.

    Args:
        language: the language model; it is left as it was.
        train, dev: the examples.
        classes: of the task; 1: a score.
        seed: of layer, order and dropout.
        epochs: over train.

    Returns:
        A class, or a score, per example of dev.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = copy.deepcopy(language.body)
        width = body.config.hidden_size
        layer = nn.Linear(width, classes).to(language.device)
        nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
        rate = 2e-5 if width >= 256 else 1e-3
        parameters = [*body.parameters(), *layer.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
        steps = epochs * -(-len(train) // BATCH)
        body.train()
        step = 0
        for _ in range(epochs):
            order = torch.randperm(len(train)).tolist()
            for start in range(0, len(order), BATCH):
                chosen = [train[n] for n in order[start : start + BATCH]]
                scale = min((step + 1) / max(1, WARMUP * steps), (steps - step) / steps)
                for group in optimiser.param_groups:
                    group["lr"] = rate * scale
                out = _outputs(language, body, layer, chosen)
                y = torch.tensor([e.label for e in chosen], device=out.device)
                loss = (
                    nn.functional.mse_loss(out[:, 0], y)
                    if classes == 1
                    else nn.functional.cross_entropy(out, y.long())
                )
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimiser.step()
                step += 1
        body.eval()
        found: list[float] = []
        with torch.no_grad():
            for start in range(0, len(dev), BATCH):
                out = _outputs(language, body, layer, dev[start : start + BATCH])
                found += (out[:, 0] if classes == 1 else out.argmax(1)).float().tolist()
    return found


def _outputs(language: Any, body: Any, layer: nn.Linear, examples: list[Example]) -> Tensor:
    texts = list(zip(*(e.texts for e in examples), strict=True))
    batch = language.tokenizer(
        *(list(t) for t in texts), truncation=True, max_length=LENGTH, padding=False
    )
    ids, mask = padded(batch["input_ids"], language.tokenizer.pad_token_id or 0)
    extra = {}
    if "token_type_ids" in batch:
        extra["token_type_ids"] = padded(batch["token_type_ids"], 0)[0].to(language.device)
    ids, mask = ids.to(language.device), mask.to(language.device)
    states = body(input_ids=ids, attention_mask=mask, **extra).last_hidden_state
    at = mask.sum(1) - 1 if language.kind == "causal" else torch.zeros_like(mask[:, 0])
    return layer(states[torch.arange(len(ids), device=ids.device), at])
