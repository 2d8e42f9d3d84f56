"""What a terminal shows of an evaluation, as a tree of blocks that ``reporting.terminal`` draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..reporting.blocks import Block, Cell, Column, Group, Heading, Paragraph, Table
from .writing import COLUMNS, headline, show, table_of_scores

__all__ = ["summary_blocks"]

READING = (
    "Intervals: 95 %, bootstrap of clusters (target terms, professions, occupations, pairs) or of "
    "items within them, whichever is wider. No headroom: within two standard errors of unbiased."
)


def summary_blocks(document: Mapping[str, Any], every: bool = False) -> list[Block]:
    """Make the tree that a terminal shows.

    Args:
        document: of ``evaluation.json``.
        every: every score, not only the headline metrics.

    Returns:
        The scores by benchmark, paired differences where there are two models, what was not
        scored, and how to read the intervals.

    Example:
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
    header, rows = table_of_scores(document, every)
    models = header[len(COLUMNS) : -1]
    columns = [Column("score", words=True), *map(Column, models), Column("note", words=True)]
    blocks: list[Block] = [Paragraph("No scores.")]
    if rows:
        blocks = [Table(columns, list(_by_benchmark(rows)))]
    blocks += _differences(document, every)
    for entry in document["skipped"]:
        who = f" for {entry['model']}" if "model" in entry else ""
        blocks.append(Paragraph(f"Not scored{who}: {entry['benchmark']}: {entry['reason']}"))
    return [*blocks, Paragraph(READING)]


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
        rows: list[Sequence[Cell] | Group] = []
        last = None
        for row in (r for r in chosen if (r["second"], r["first"]) == pair):
            if row["benchmark"] != last:
                rows.append(Group(row["benchmark"]))
            last = row["benchmark"]
            p = row.get("p_value")
            test = f"p {p:.3g} ({row['test']})" if p is not None else row.get("note", "")
            changed = "" if row.get("changed") is None else str(row["changed"])
            name = " ".join(row[c] for c in COLUMNS[1:])
            rows.append([Cell(name), _value(show(row)), Cell(changed), Cell(test)])
        found += [Heading(f"{pair[0]} - {pair[1]}"), Table(columns, rows)]
    return found
