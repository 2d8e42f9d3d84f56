"""What a terminal and the page show first of an evaluation, as a tree of blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..reporting.blocks import Block, Cell, Column, Group, Heading, Paragraph, Table
from .evaluation import NONE_MADE

__all__ = ["headline", "scores", "show", "summary_blocks"]

# What a table shows first; ICAT is in none of them (a 4.4 M-parameter model scores 73.95).
HEADLINES = {
    "stereoset": ("lm", "ss", "ss_distance"),
    "crows-pairs": ("metric", "log_ratio"),
    "seat": ("effect_size", "p_value"),
    "bec-pro": ("gap", "absolute_gap"),
}
COLUMNS = ("benchmark", "subset", "variant", "metric")

READING = (
    "Intervals: 95 %, by resampled clusters (target words, professions, occupations, pairs) or "
    "items within them, whichever are wider, with Student's quantiles for few of them; of effect "
    "sizes, by leaving words out. No headroom: within two standard errors of unbiased, or unbiased "
    "lies in the interval."
)


def headline(row: Mapping[str, Any]) -> bool:
    """Tell whether a row belongs in the first table."""
    metrics = HEADLINES.get(row["benchmark"])
    return row["metric"] != "icat" and (metrics is None or row["metric"] in metrics)


def show(row: Mapping[str, Any]) -> str:
    """Return a value with its interval.

    >>> show({"value": 50.537, "low": 47.4, "high": 53.46})
    '50.54 [47.40, 53.46]'
    """
    if row["value"] is None:
        return "undefined"
    text = f"{row['value']:.4g}" if abs(row["value"]) < 10 else f"{row['value']:.2f}"
    if row["low"] is None or row["high"] is None:
        return text
    style = ".2f" if abs(row["value"]) >= 10 else ".3g"
    return f"{text} [{row['low']:{style}}, {row['high']:{style}}]"


def table_of_scores(
    document: Mapping[str, Any], every: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Return column titles and rows of text: a score a row, a model a column."""
    models = list(dict.fromkeys(row["model"] for row in document["scores"]))
    cells: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for row in document["scores"]:
        if every or headline(row):
            cells.setdefault(tuple(row[c] for c in COLUMNS), {})[row["model"]] = row
    rows = []
    for key, by_model in cells.items():
        shown = [show(by_model[m]) if m in by_model else "" for m in models]
        rows.append([*key, *shown, _notes(by_model, len(models))])
    return [*COLUMNS, *models, "note"], rows


def _notes(by_model: Mapping[str, Mapping[str, Any]], models: int) -> str:
    """Return the notes of a score, each with the models it is about unless it is about all."""
    about: dict[str, list[str]] = {}
    for model, row in by_model.items():
        for note in _told(row["note"]):
            about.setdefault(note, []).append(model)
    return "; ".join(
        note if len(names) == models else f"{', '.join(names)}: {note}"
        for note, names in about.items()
    )


def _told(note: str) -> list[str]:
    """Return what a table says of a note: not that no p-value has an interval."""
    return [part for part in note.split("; ") if part not in ("", NONE_MADE)]


def summary_blocks(document: Mapping[str, Any], every: bool = False) -> list[Block]:
    """Make the tree that a terminal shows, and the page with more.

    The scores by benchmark, paired differences where there are two models, what was not scored, and
    how to read the intervals.

    >>> from ncfast.reporting.terminal import Terminal
    >>> row = {"model": "base", "benchmark": "seat", "subset": "weat6", "variant": "cls",
    ...        "metric": "p_value", "value": 0.25, "low": None, "high": None, "note": ""}
    >>> blocks = summary_blocks({"scores": [row], "differences": [], "skipped": []})
    >>> Terminal(rich=False, width=60).blocks(blocks[:1])
    <BLANKLINE>
                         base  note
    <BLANKLINE>
    seat
      weat6 cls p_value  0.25
    """
    blocks = [scores(document, every), *_differences(document, every)]
    skipped: dict[str, list[str]] = {}
    for entry in document["skipped"]:
        what = f"{entry['benchmark']}: {entry['reason']}"
        skipped.setdefault(what, []).extend([entry["model"]] if "model" in entry else [])
    for what, models in skipped.items():
        who = f" for {', '.join(models)}" if models else ""
        blocks.append(Paragraph(f"Not scored{who}: {what}"))
    return [*blocks, Paragraph(READING)]


def scores(document: Mapping[str, Any], every: bool = False) -> Block:
    """Return the table of scores, a model a column."""
    header, rows = table_of_scores(document, every)
    models = header[len(COLUMNS) : -1]
    columns = [Column("score", words=True), *map(Column, models), Column("note", words=True)]
    return Table(columns, list(_by_benchmark(rows))) if rows else Paragraph("No scores.")


def _by_benchmark(rows: Sequence[Sequence[str]]) -> Iterator[Sequence[Cell] | Group]:
    """Return the rows of a table, those of a benchmark below its name."""
    last = None
    for benchmark, *rest in rows:
        if benchmark != last:
            yield Group(benchmark)
        last = benchmark
        name, cells = " ".join(rest[: len(COLUMNS) - 1]), rest[len(COLUMNS) - 1 :]
        *values, note = cells
        yield [Cell(name), *map(_value, values), Cell(note)]


def _value(text: str) -> Cell:
    """Return a value with its interval under it."""
    value, _, interval = text.partition(" [")
    return Cell(value, f"[{interval}" if interval else "")


def _differences(document: Mapping[str, Any], every: bool) -> list[Block]:
    chosen = [row for row in document["differences"] if every or headline(row)]
    if not chosen:
        return []
    columns = [Column("score", words=True), Column("difference"), Column("verdicts changed")]
    columns.append(Column("test", words=True))
    found: list[Block] = [
        Paragraph("Paired differences: the same items and the same resampled clusters.")
    ]
    for pair in dict.fromkeys((row["second"], row["first"]) for row in chosen):
        rows = []
        for row in (r for r in chosen if (r["second"], r["first"]) == pair):
            p = row.get("p_value")
            tested = [] if p is None else [f"p {p:.3g} ({row['test']})"]
            test = "; ".join(tested + _told(row.get("note", "")))
            changed = "" if row.get("changed") is None else str(row["changed"])
            rows.append([*(row[c] for c in COLUMNS), show(row), changed, test])
        found += [Heading(f"{pair[0]} - {pair[1]}"), Table(columns, list(_by_benchmark(rows)))]
    return found
