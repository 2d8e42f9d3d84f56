"""Published measurements, read from a CSV file of the user's, laid beside those of a report.

The columns are those of the artifacts of Linguistic Collapse (arXiv 2405.17767), one row per model.
Only columns whose definition equals that of one of our keys are used; every other column is listed
with the reason. Nothing of the file but counts and quantiles enters a report: it has no licence.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..catalogue import METRICS, Published

LEVELS = {"min": 0.0, "p05": 0.05, "p50": 0.5, "p95": 0.95, "max": 1.0}


MAPPING = {key: metric.published for key, metric in METRICS.items() if metric.published}
UNMAPPED = {
    "interfere": "inner products of class means as they are; ours are cosines",
    "simdot": "inner products of head rows and class means; ours are cosines",
    "norms_log_mean": "no key of ours",
    "norms_var": "no key of ours: norm_cov is the spread over the mean",
    "dists_var": "no key of ours",
    **dict.fromkeys(
        ("model", "n_params", "val_acc", "val_loss", "perplex"), "not a neural-collapse metric"
    ),
}
# The edition of May 2024: these agree with the later one under other names; its norms, distances
# and kernel are other quantities under the same names.
OLDER = {"cdnv_mean": "cdnv", "sims_mean": "simcos_mean", "matches": "hits"}


@dataclass(frozen=True)
class Reference:
    """Hold the published values that are comparable with ours.

    >>> Reference("a.csv", 2, {"nc3_mean": np.array([0.1, 0.3])}, {}).rows
    2
    """

    name: str  # the file's name
    rows: int  # how many rows it has
    values: Mapping[str, np.ndarray]  # our key -> its value in each row; NaN where the row has none
    unmapped: Mapping[str, str]  # column -> why it is not used


def read_reference(path: str | os.PathLike[str], settings: Mapping[str, Any]) -> Reference:
    """Read a CSV of published measurements, with a header line.

    ``center`` and ``definitions`` of the settings decide which columns are the same quantity as
    ours. A file without a row, with a value that is no number, or no such column, is a ValueError.
    """
    path = Path(path)
    header, rows = _read(path)
    usable = {name: name for name in header}
    if any(name in header for name in OLDER):
        usable = {later: name for name, later in OLDER.items() if name in header}
        usable |= {"misses": "misses"} if "misses" in header else {}
    chosen = {"center": settings.get("center"), **(settings.get("definitions") or {})}
    values: dict[str, np.ndarray] = {}
    unmapped = {name: _reason(name, name in usable.values()) for name in header}
    for key, column in MAPPING.items():
        if any(name not in usable for name in column.columns):
            continue
        names = [usable[name] for name in column.columns]
        other = [(s, value) for s, value in column.settings if chosen.get(s) != value]
        for name in names:
            if not other:
                unmapped.pop(name, None)
            elif name in unmapped:
                theirs = ", ".join(f"{s}={value}" for s, value in other)
                unmapped[name] = f"measured with {theirs} there, not here"
        if not other:
            values[key] = _column(path, rows, names, column)
    if not values:
        raise ValueError(
            f"{path}: no column is a metric of this report; it has {', '.join(header) or 'none'}"
        )
    return Reference(path.name, len(rows), values, unmapped)


def _read(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            header = [name for name in reader.fieldnames or [] if name]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV file ({error})") from None
    if not rows:
        raise ValueError(f"{path}: no row; expected a header line and one row per model")
    return header, rows


def _reason(column: str, usable: bool) -> str:
    if not usable:
        return "another quantity in this edition of the file"
    for start, reason in UNMAPPED.items():
        if column.startswith(start):
            return reason
    return "not a column we know"


def _column(
    path: Path, rows: Sequence[Mapping[str, Any]], names: Sequence[str], column: Published
) -> np.ndarray:
    values = []
    for line, row in enumerate(rows, start=2):
        numbers = [_number(path, line, name, row[name]) for name in names]
        try:
            values.append(column.compute(*numbers))
        except ValueError:  # the root of a negative variance
            raise ValueError(f"{path}: line {line}: {column.formula} of {numbers}") from None
    return np.asarray(values, dtype=np.float64)


def _number(path: Path, line: int, name: str, text: str | None) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        raise ValueError(f"{path}: line {line}: {name} is {text!r}; expected a number") from None


def lay_beside(
    reference: Reference, measured: Mapping[str, Mapping[str, float | None]]
) -> dict[str, Any]:
    """Say where values of whole vocabularies lie among published ones.

    Returns {name, rows, metrics, unmapped}; a metric has formula, rows (that have a value),
    quantiles, values {name: ours}, and below {name: share of the published values below ours}.

    >>> published = Reference("a.csv", 2, {"nc3_mean": np.array([0.1, 0.3])}, {})
    >>> lay_beside(published, {"mine": {"nc3_mean": 0.2}})["metrics"]["nc3_mean"]["below"]
    {'mine': 0.5}
    """
    metrics: dict[str, Any] = {}
    unmapped = dict(reference.unmapped)
    for key, column in reference.values.items():
        finite = np.sort(column[np.isfinite(column)])
        lacking = "" if finite.size else "no value in the file"
        lacking = lacking or (
            "" if any(key in v for v in measured.values()) else "not measured here"
        )
        if lacking:
            unmapped[MAPPING[key].formula] = lacking
            continue
        ours = {name: values.get(key) for name, values in measured.items()}
        metrics[key] = {
            "formula": MAPPING[key].formula,
            "rows": int(finite.size),
            "quantiles": dict(
                zip(LEVELS, np.quantile(finite, list(LEVELS.values())).tolist(), strict=True)
            ),
            "values": ours,
            "below": {name: _below(finite, value) for name, value in ours.items()},
        }
    return {
        "name": reference.name,
        "rows": reference.rows,
        "metrics": metrics,
        "unmapped": unmapped,
    }


def _below(finite: np.ndarray, value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float((finite < value).mean())


def overlay(
    path: str | os.PathLike[str], labels: Sequence[str], reports: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Lay the vocabularies of reports beside the published measurements of a CSV.

    A column is used for the reports whose definitions are its own; see :func:`lay_beside`.
    """
    found = [read_reference(path, report["settings"]) for report in reports]
    measured = {
        label: {k: v for k, v in _vocabulary(report).items() if k in one.values}
        for label, report, one in zip(labels, reports, found, strict=True)
    }
    values = {key: column for one in found for key, column in one.values.items()}
    unmapped = {
        column: reason
        for column, reason in found[0].unmapped.items()
        if all(column in one.unmapped for one in found)
    }
    return lay_beside(Reference(found[0].name, found[0].rows, values, unmapped), measured)


def _vocabulary(report: Mapping[str, Any]) -> Mapping[str, float | None]:
    return report["sets"]["vocabulary"]["metrics"]
