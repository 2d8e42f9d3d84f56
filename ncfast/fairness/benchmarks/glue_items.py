"""The tasks of GLUE: where their files are, and their examples, every row checked."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..data import csv_reader, number_in
from ..errors import EvaluationError, row_error

__all__ = ["TASKS", "Example", "Task"]


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
    found: list[list[str]] = []
    try:
        found.extend(row for row in csv_reader(path, delimiter, quoted) if row)
    except csv.Error as error:
        raise EvaluationError(f"{path.name}, after row {len(found)}: no table ({error})") from error
    return found


def _label(path: Path, row: int, field: str, given: str) -> float:
    value = number_in(path, row, field, given, (0, 1))
    if value not in (0, 1):
        raise row_error(path, row, field, f"{given!r}; expected 0 or 1")
    return value


def read_sst2(path: Path) -> list[tuple[tuple[str, ...], float]]:
    """Read text and label; with GLUE's header or without one."""
    rows = _columns(path, "\t", False)
    start = 1 if rows and rows[0] == ["sentence", "label"] else 0
    found: list[tuple[tuple[str, ...], float]] = []
    for number, row in enumerate(rows[start:], 1):
        if len(row) != 2:
            raise row_error(path, number, "sentence", f"{len(row)} fields; expected 2")
        found.append(((row[0],), _label(path, number, "label", row[1])))
    return found


def read_rte(path: Path) -> list[tuple[tuple[str, ...], float]]:
    """Read premise, hypothesis and whether it is entailed, by GLUE's header or without one."""
    names = {"entailment": 0.0, "not_entailment": 1.0, "0": 0.0, "1": 1.0}
    found: list[tuple[tuple[str, ...], float]] = []
    rows = _columns(path, "\t", False)
    start = 1 if rows and rows[0][-1].strip() == "label" else 0
    for number, row in enumerate(rows[start:], 1):
        if len(row) not in (3, 4):
            raise row_error(path, number, "label", f"{len(row)} fields; expected 3, or 4 with ids")
        if row[-1].strip() not in names:
            raise row_error(path, number, "label", f"{row[-1]!r}; expected one of {list(names)}")
        found.append(((row[-3], row[-2]), names[row[-1].strip()]))
    return found


def read_stsb(path: Path) -> list[tuple[tuple[str, ...], float]]:
    """Read two sentences and their similarity, 0 to 5."""
    found: list[tuple[tuple[str, ...], float]] = []
    for number, row in enumerate(_columns(path, ",", True), 1):
        if len(row) != 3:
            raise row_error(path, number, "score", f"{len(row)} fields; expected 3")
        found.append(((row[0], row[1]), number_in(path, number, "score", row[2], (0, 5))))
    return found


def read_cola(path: Path) -> list[tuple[tuple[str, ...], float]]:
    """Read GLUE's four columns: source, label, author's mark, sentence."""
    found: list[tuple[tuple[str, ...], float]] = []
    for number, row in enumerate(_columns(path, "\t", False), 1):
        if len(row) != 4:
            raise row_error(path, number, "sentence", f"{len(row)} fields; expected 4")
        found.append(((row[3],), _label(path, number, "label", row[1])))
    return found


def read_mrpc(path: Path) -> list[tuple[tuple[str, ...], float]]:
    """Read GLUE's five columns, with its header or without one: quality, two ids, two sentences."""
    found: list[tuple[tuple[str, ...], float]] = []
    rows = _columns(path, "\t", False)
    start = 1 if rows and rows[0][0].strip() == "Quality" else 0
    for number, row in enumerate(rows[start:], 1):
        if len(row) != 5:
            raise row_error(path, number, "#2 String", f"{len(row)} fields; expected 5")
        found.append(((row[3], row[4]), _label(path, number, "Quality", row[0])))
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
