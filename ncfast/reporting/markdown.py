"""The report as Markdown: ``report.md``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import accounting, wording
from .glossary import explain_metric, ordered_keys
from .layers import how_layers, layer_tables
from .leading import LEADING, LeadingTable, how_read, leading_tables
from .tables import Comparison, compare_sets, format_number, reference_rows


def render_markdown(report: Mapping[str, Any]) -> str:
    """Draw the whole report as Markdown.

    Args:
        report: a report document.

    Returns:
        The text of ``report.md``.

    Example:
        >>> render_markdown(report).splitlines()[0]  # doctest: +SKIP
        '# Neural collapse of demo:minilm'
    """
    parts = [
        f"# Neural collapse of {escape_markdown(wording.short_name(report['model']['name']))}",
        "",
    ]
    parts += [f"> **Note.** {escape_markdown(note)}\n" for note in wording.warnings(report)]
    parts += [escape_markdown(wording.summary(report)), ""]
    parts += [f"- {escape_markdown(sentence)}" for sentence in wording.findings(report)]
    parts += leading_lines(leading_tables(report))
    table = compare_sets(report)
    parts += ["", "## Side by side", "", *comparison_lines(table), ""]
    parts += [*(f"{escape_markdown(note)}\n" for note in accounting.methods(report))]
    parts += [
        *reference_lines(report.get("reference")),
        *layer_lines(report.get("layers")),
        *_group_lines(report),
        *_dropped_lines(report),
    ]
    parts += ["## What the rows mean", "", *glossary_lines(row.key for row in table.rows), ""]
    parts += ["## How it was measured", ""]
    parts += [
        f"- {escape_markdown(name)}: {escape_markdown(value)}"
        for name, value in wording.facts(report)
    ]
    return "\n".join(parts) + "\n"


def escape_markdown(text: object) -> str:
    """Keep words such as ``*`` or ``a|b`` from becoming Markdown.

    Args:
        text: what to write.

    Returns:
        It on one line, with every mark of Markdown escaped.

    Example:
        >>> print(escape_markdown("a|b"))
        a\\|b
    """
    plain = " ".join(str(text).split())
    return "".join("\\" + mark if mark in "\\`*_[]<>#|" else mark for mark in plain)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Draw a Markdown table with the first column to the left and the others to the right.

    Args:
        header: the column titles.
        rows: the cells, already escaped.

    Returns:
        Its lines.

    Example:
        >>> markdown_table(["a", "b"], [["x", "1"]])[1]
        '|---|---:|'
    """
    rule = "|" + "|".join(["---"] + ["---:"] * (len(header) - 1)) + "|"
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return [lines[0], rule, *lines[1:]]


def comparison_lines(table: Comparison) -> list[str]:
    """Draw a table of metrics.

    Args:
        table: columns and rows.

    Returns:
        Its lines.

    Example:
        >>> comparison_lines(Comparison((), ()))
        ['| metric |', '|---|']
    """
    rows = []
    for row in table.rows:
        entry = explain_metric(row.key)
        cells = [
            f"{cell} {escape_markdown(detail)}".strip()
            for cell, detail in zip(row.cells, row.details, strict=True)
        ]
        rows.append([f"{entry.family}: {escape_markdown(entry.title)} `{row.key}`", *cells])
    return markdown_table(["metric", *(escape_markdown(c) for c in table.columns)], rows)


def leading_lines(tables: Sequence[LeadingTable]) -> list[str]:
    """Draw the leading tables of a report.

    Args:
        tables: from ``leading_tables``.

    Returns:
        Their lines, each table after an empty one.

    Example:
        >>> leading_lines([])
        []
    """
    lines: list[str] = []
    for table in tables:
        header = ["metric", "collapsed", *map(escape_markdown, table.columns)]
        header += [f"{escape_markdown(table.name)} words are"] if table.name else []
        rows = []
        for row in table.rows:
            reading = LEADING[row.key]
            cells = [
                f"{cell} {escape_markdown(detail)}".strip()
                for cell, detail in zip(row.cells, row.details, strict=True)
            ]
            said = [row.words] if table.name else []
            rows.append([f"{reading.name}: {reading.asks}", reading.collapsed, *cells, *said])
        lines += ["", *markdown_table(header, rows)]
    explained = how_read(list(tables))
    return [*lines, "", explained] if explained else lines


def reference_lines(reference: Mapping[str, Any] | None) -> list[str]:
    """Draw the table of published measurements.

    Args:
        reference: the ``reference`` part of a report or a comparison, or None.

    Returns:
        Its lines, with heading; none without a reference.

    Example:
        >>> reference_lines(None)
        []
    """
    if not reference:
        return []
    header, rows = reference_rows(reference)
    body = [
        [f"{escape_markdown(explain_metric(key).title)} `{key}`", *map(escape_markdown, cells)]
        for key, cells in rows
    ]
    return [
        "## Beside published measurements",
        "",
        *markdown_table(["metric", *map(escape_markdown, header)], body),
        "",
        escape_markdown(accounting.published(reference)),
        "",
    ]


def layer_lines(layers: Mapping[str, Any] | None) -> list[str]:
    """Draw the layers of a report.

    Args:
        layers: the ``layers`` part of a report, or None.

    Returns:
        Its lines, with heading; none without layers.

    Example:
        >>> layer_lines(None)
        []
    """
    if not layers:
        return []
    lines = ["## Layer by layer", "", escape_markdown(how_layers(layers)), ""]
    for name, header, rows in layer_tables(layers):
        table = markdown_table([*map(escape_markdown, header)], rows)
        lines += [f"### Layers of {escape_markdown(name)}", "", *table, ""]
    return lines


def _group_lines(report: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, section in report["sets"].items():
        if section["kind"] != "words" or not section.get("groups"):
            continue
        rows = [
            [
                escape_markdown(group),
                format_number(values["classes"]),
                format_number(values["tokens"]),
                format_number(values["cosine_mean"]),
                format_number(values["norm_mean"]),
            ]
            for group, values in section["groups"].items()
        ]
        header = ["group", "classes", "tokens", "mean cosine", "mean length"]
        lines += [f"## Groups of {escape_markdown(name)}", "", *markdown_table(header, rows), ""]
    return lines


def _dropped_lines(report: Mapping[str, Any]) -> list[str]:
    lines = ["## What was left out", ""]
    lines += [f"- {escape_markdown(sentence)}" for sentence in accounting.dropped_tokens(report)]
    for name, section in report["sets"].items():
        for reason, words in accounting.dropped_words(section).items():
            listed = ", ".join(escape_markdown(word) for word in words)
            entry = f"- {escape_markdown(name)}, {escape_markdown(reason)} ({len(words)}): {listed}"
            lines += textwrap.wrap(
                entry, 100, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
            )
    for keys, sets, reason in accounting.number_notes(report):
        named = ", ".join(f"`{key}`" for key in keys)
        lines.append(f"- {named} of {escape_markdown(', '.join(sets))}: {escape_markdown(reason)}")
    return [*lines, ""]


def glossary_lines(keys: Iterable[str]) -> list[str]:
    """Explain metrics, one line each.

    Args:
        keys: the metrics' keys.

    Returns:
        Items of a list, in the order of the families.

    Example:
        >>> glossary_lines(["brand_new"])
        ['- **brand\\\\_new** `brand_new`: ']
    """
    lines = []
    for key in ordered_keys(keys):
        entry = explain_metric(key)
        direction = f" ({entry.direction})" if entry.direction else ""
        lines.append(f"- **{escape_markdown(entry.title)}** `{key}`: {entry.meaning}{direction}")
    return lines
