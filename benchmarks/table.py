"""Rows of measurements: kept in a CSV that partial runs add to, and written as a table to read."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["Absence", "Measurement", "load", "read_rows", "render", "store"]


@dataclass(frozen=True)
class Keyed:
    """Hold what was to be timed: rows with the same key replace each other."""

    op: str
    size: str
    dtype: str
    threads: int
    provider: str

    @property
    def key(self) -> tuple[str, ...]:
        """Return op, size, dtype, provider and threads."""
        return (self.op, self.size, self.dtype, self.provider, str(self.threads))


@dataclass(frozen=True)
class Measurement(Keyed):
    """Hold one timed row, with all that is needed to read it beside rows of other runs.

    Times are of the whole work, in milliseconds, memory in MiB. ``goal``, ``extra_goal_mib`` and
    what follows from them are given for ncfast's own ``cpu`` rows only. ``faster_by`` is the time
    of the provider to beat over this one's, empty where it was not timed in the same run;
    ``faster_goal`` is what it must reach.
    ``drift`` is how far the quartiles of a ceiling's times differ, as a fraction of the upper one.
    """

    q25_ms: float
    median_ms: float
    q75_ms: float
    least_ms: float
    repeats: int
    floor_ms: float
    floor_of: str
    gap: float
    goal: float | None
    faster_than: str
    faster_goal: float
    faster_by: float | None
    extra_mib: float | None
    extra_goal_mib: float | None
    copy_gb_s: float
    sgemm_gflop_s: float
    drift: float
    note: str
    run: str

    @property
    def verdicts(self) -> list[tuple[str, bool | None]]:
        """Return each goal set for this row and whether it is met; None: not measured."""
        found: list[tuple[str, bool | None]] = []
        if self.goal is not None:
            found.append((f"gap <= {self.goal:g}", self.gap <= self.goal))
        if self.faster_than:
            faster = None if self.faster_by is None else self.faster_by >= self.faster_goal
            by = "" if self.faster_by is None else f" ({self.faster_by:.2f}x)"
            share = "" if self.faster_goal == 1 else f"{self.faster_goal:.3g}x "
            found.append((f"{share}faster than {self.faster_than}{by}", faster))
        if self.extra_goal_mib is not None:
            small = None if self.extra_mib is None else self.extra_mib <= self.extra_goal_mib
            found.append((f"extra <= {self.extra_goal_mib:.0f} MiB", small))
        return found


@dataclass(frozen=True)
class Absence(Keyed):
    """Hold what was not timed, and why."""

    reason: str


_Row = TypeVar("_Row", Measurement, Absence)
_FILES = {Measurement: "results.csv", Absence: "absent.csv"}
_READ: dict[str, Callable[[str], object]] = {
    "int": int,
    "float": float,
    "float | None": lambda text: float(text) if text else None,
    "str": str,
}


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file, none where there is no file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def load(folder: Path, kind: type[_Row]) -> list[_Row]:
    """Return the rows stored in a folder, none where there is no file; reject other columns."""
    path = folder / _FILES[kind]
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        expected = [field.name for field in fields(kind)]
        if reader.fieldnames != expected:
            raise ValueError(
                f"{path}: has the columns {reader.fieldnames}; expected {expected}. "
                "Move it away, or give another --out."
            )
        types = {field.name: _READ[str(field.type)] for field in fields(kind)}
        rows: list[dict[str, Any]] = [
            {name: types[name](text) for name, text in row.items()} for row in reader
        ]
        return [kind(**row) for row in rows]


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text, encoding="utf-8", newline="")
    os.replace(partial, path)


def _csv_text(kind: type[_Row], rows: Sequence[_Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def store(
    folder: Path,
    measured: Sequence[Measurement],
    absent: Sequence[Absence],
    order: Callable[[tuple[str, ...]], tuple[int, ...]],
) -> str:
    """Merge new rows into those stored, newer over older; write both files and table.md.

    Returned is the table. A new row replaces one of either kind under the same key; ``order`` says
    where a key stands.
    """
    new = {row.key for row in measured} | {row.key for row in absent}
    kept = [row for row in load(folder, Measurement) if row.key not in new]
    still_absent = [row for row in load(folder, Absence) if row.key not in new]
    rows = sorted([*kept, *measured], key=lambda row: order(row.key))
    gone = sorted([*still_absent, *absent], key=lambda row: order(row.key))
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / _FILES[Measurement], _csv_text(Measurement, rows))
    _write(folder / _FILES[Absence], _csv_text(Absence, gone))
    text = render(rows, gone)
    _write(folder / "table.md", text)
    return text


_LEGEND = """\
gap = median / floor. The floor is the least memory traffic over the copy bandwidth, or the least
arithmetic over the sgemm rate, whichever takes longer (`ncfast/bench/bounds.py`); both rates are
medians of what was timed in turns with the op (in runs of 2026-11-24: the better of two
measurements, right before and right after). The sgemm rate is torch.mm's:
ops multiply with oneDNN where that is faster (`ncfast doctor`): their gap can be below 1.
The floor beside the term (DualityRegularizer) is the term's own, also in the row of a whole step
(masked_lm_step), which the term's time is a share of. extra = peak memory of one call
beside what was held before and the outputs it returned. Goals are ncfast's own, for `cpu`. What the
statistics cost beside a model's forward pass is measured by `ncfast measure` itself
(`statistics_share` in its report; goal 10 %).
"""


def _goal_text(row: Measurement) -> str:
    words = {True: "met", False: "MISSED", None: "not measured"}
    return "; ".join(f"{goal} {words[met]}" for goal, met in row.verdicts)


def render(rows: Sequence[Measurement], absent: Sequence[Absence]) -> str:
    """Write rows as Markdown: a table for each op, the runs they come from, and what is absent."""
    runs = {run: number for number, run in enumerate(dict.fromkeys(r.run for r in rows), 1)}
    lines = [f"- run {number}: {run}" for run, number in runs.items()]
    lines += ["", *_LEGEND.splitlines(), ""]
    lines += [
        "| op | size | dtype | threads | provider | median ms (quartiles) | floor ms | gap "
        "| extra MiB | goals | copy GB/s, sgemm GFLOP/s (drift) | run | note |",
        "|---|---|---|--:|---|--:|--:|--:|--:|---|--:|--:|---|",
    ]
    for r in rows:
        extra = "" if r.extra_mib is None else f"{r.extra_mib:.1f}"
        lines.append(
            f"| {r.op} | {r.size} | {r.dtype} | {r.threads} | {r.provider} "
            f"| {r.median_ms:.4g} ({r.q25_ms:.4g}-{r.q75_ms:.4g}) | {r.floor_ms:.4g} ({r.floor_of})"
            f" | {r.gap:.2f} | {extra} | {_goal_text(r)} | {r.copy_gb_s:.1f}, "
            f"{r.sgemm_gflop_s:.0f} ({100 * r.drift:.0f} %) | {runs[r.run]} | {r.note} |"
        )
    return "\n".join(lines + _absences(absent)) + "\n"


def _absences(absent: Sequence[Absence]) -> list[str]:
    """Return a line for each provider and reason, naming all that it keeps from being timed."""
    reasons: dict[str, dict[str, None]] = {}
    for a in absent:
        what = f"{a.op}, {a.size} {a.dtype}"
        reasons.setdefault(f"- {a.provider} {a.reason}", {})[what] = None
    lines = [f"{reason}: {'; '.join(what)}." for reason, what in reasons.items()]
    return ["", "Not measured:", "", *lines] if lines else []
