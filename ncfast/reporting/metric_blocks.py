"""The blocks that reports, comparisons and series share: tables of metrics and what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..catalogue import FAMILIES, LEADING, LETTERS, explain_metric, ordered_keys
from . import accounting
from .blocks import Block, Cell, Column, Definition, Definitions, Group, Heading, Paragraph, Table
from .leading import LESS, MORE, LeadingTable, how_read
from .tables import Comparison, reference_rows


def metric_table(found: Comparison, caption: str = "", label: str = "") -> Table:
    """Make a table of metrics, families apart, every name a link into the glossary.

    >>> metric_table(Comparison(("vocabulary",), ())).columns[1].title
    'vocabulary'
    """
    rows: list[Sequence[Cell] | Group] = []
    family = ""
    for row in found.rows:
        entry = explain_metric(row.key)
        if entry.family != family:
            family = entry.family
            rows.append(Group(family, FAMILIES[family]))
        name = Cell(entry.title, entry.direction, f"metric-{row.key}", row.key)
        rows.append([name, *map(Cell, row.cells, row.details)])
    columns = [Column("Metric", words=True), *map(Column, found.columns)]
    return Table(columns, rows, caption, label)


def leading_blocks(tables: Iterable[LeadingTable]) -> list[Block]:
    """Make the leading tables of a report, and how they are read.

    >>> leading_blocks([])
    []
    """
    tables = list(tables)
    blocks: list[Block] = []
    for found in tables:
        columns = [Column("Metric", words=True), Column("collapsed", words=True, folds=True)]
        columns += map(Column, found.columns)
        if found.name:
            columns.append(Column(f"{found.name} words are", words=True))
        rows = []
        for row in found.rows:
            reading = LEADING[row.key]
            cells = [
                Cell(reading.symbol, reading.asks, f"metric-{row.key}"),
                Cell(reading.collapsed),
                *map(Cell, row.cells, row.details),
            ]
            if found.name:
                style = {MORE: "more", LESS: "less"}.get(row.words, "alike")
                cells.append(Cell(row.words, style=f"said {style}"))
            rows.append(cells)
        caption = (
            "The eight numbers that the papers compare; “collapsed” is where a collapsed model "
            "stands."
        )
        label = f"Leading metrics {found.name}".strip()
        blocks.append(Table(columns, rows, caption, label, about="what it is"))
    explained = how_read(tables)
    return [*blocks, Paragraph(explained, "soft")] if explained else blocks


def glossary_blocks(keys: Iterable[str]) -> list[Block]:
    """Explain metrics, in the order of their families.

    >>> glossary_blocks(["nc3_mean"])[2].entries[0].key
    'nc3_mean'
    """
    entries = []
    for key in ordered_keys(keys):
        found = explain_metric(key)
        text = (
            f"{found.meaning} {found.symbol}: {found.formula}." if found.formula else found.meaning
        )
        entries.append(Definition(found.title, text, key, found.direction))
    heading = Heading("What the numbers mean", id="glossary")
    return [heading, Paragraph(LETTERS, "soft"), Definitions(entries)]


def reference_blocks(reference: Mapping[str, Any] | None) -> list[Block]:
    """Lay published measurements beside ours; nothing without them.

    >>> reference_blocks(None)
    []
    """
    if not reference:
        return []
    header, found = reference_rows(reference)
    rows = [
        [Cell(explain_metric(key).title, "", f"metric-{key}", key), *map(Cell, cells)]
        for key, cells in found
    ]
    columns = [Column("Metric", words=True), *map(Column, header)]
    return [
        Heading("Beside published measurements", id="published"),
        Paragraph(
            "Values of the whole vocabulary beside those of published models. “Above” is the "
            "share of the published values that this model's value is above. Other models, texts "
            "and vocabularies: a scale to read the numbers by, not a contest."
        ),
        Table(columns, rows, "", "Published measurements"),
        Paragraph(accounting.published(reference), "soft"),
    ]
