"""Tables of a report: the side-by-side comparison, as plain text and as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import wording
from .glossary import FAMILIES, explain_metric, ordered_keys

MISSING = "-"


@dataclass(frozen=True)
class Row:
    """Hold one metric over all columns: its key and one text per column.

    Args:
        key: the metric's key.
        cells: one text per column of the table.

    Example:
        >>> Row("nc3_mean", ("0.31",)).key
        'nc3_mean'
    """

    key: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Hold the side-by-side table: column titles and rows ordered by family.

    Args:
        columns: the titles of the columns.
        rows: one ``Row`` per metric.

    Example:
        >>> Comparison(("vocabulary",), ()).rows
        ()
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def format_number(value: float | None, digits: int = 4) -> str:
    """Format a number for a table: integers with separators, others to a few digits.

    Args:
        value: the number, or None where it is undefined.
        digits: significant digits of a value that is not an integer.

    Returns:
        The text; a dash for None.

    Example:
        >>> format_number(1234567), format_number(0.123456), format_number(None)
        ('1,234,567', '0.1235', '-')
    """
    if value is None:
        return MISSING
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.{digits}g}"


def compare_sets(report: Mapping[str, Any]) -> Comparison:
    """Lay the sets of a report side by side.

    Args:
        report: a report document.

    Returns:
        Columns for the vocabulary and, for each word set, itself, the mean and standard deviation
        over its random controls, its matched control, and its ratio to the random controls.

    Example:
        >>> compare_sets({"sets": {}}).columns
        ()
    """
    sets = report["sets"]
    keys = ordered_keys(key for section in sets.values() for key in section["metrics"])
    columns: list[tuple[str, dict[str, str]]] = []
    for name, section in sets.items():
        if section["kind"] in ("random", "matched"):
            continue
        columns.append((name, _values(section["metrics"])))
        if controls := section.get("random_controls"):
            count = len(controls["names"])
            columns.append((f"{count} random controls", _mean_and_std(controls)))
        columns += [
            ("matched control", _values(other["metrics"]))
            for other in sets.values()
            if other["kind"] == "matched" and other["of"] == name
        ]
        if ratio := section.get("ratio_to_random"):
            columns.append((f"{name} / random", _values(ratio, digits=3)))
    return Comparison(
        tuple(title for title, _ in columns),
        tuple(Row(key, tuple(column.get(key, MISSING) for _, column in columns)) for key in keys),
    )


def _values(values: Mapping[str, float | None], digits: int = 4) -> dict[str, str]:
    return {key: format_number(value, digits) for key, value in values.items()}


def _mean_and_std(controls: Mapping[str, Any]) -> dict[str, str]:
    cells = {}
    for key, mean in controls["mean"].items():
        spread = controls["std"].get(key)
        # A mean of counts is no count: "84.4 tokens" is clearer than four digits of it.
        whole = explain_metric(key).family == "Size"
        if whole and mean is not None and spread is not None:
            mean, spread = round(mean), round(spread)
        shown = format_number(mean)
        # Two digits of a spread say enough, but never as 1.2e+02.
        digits = 2 if not spread or spread < 100 else 4
        cells[key] = shown if not spread else f"{shown} ± {format_number(spread, digits)}"
    return cells


def render_text(report: Mapping[str, Any]) -> str:
    """Draw the side-by-side table for a terminal.

    Args:
        report: a report document.

    Returns:
        Lines of plain text, families apart, numbers aligned to the right.

    Example:
        >>> print(render_text(report))  # doctest: +SKIP
    """
    table = compare_sets(report)
    names = [explain_metric(row.key).title for row in table.rows]
    first = max([len(name) for name in names] + [len(r.key) + 2 for r in table.rows], default=0)
    widths = [
        max(len(title), *(len(row.cells[i]) for row in table.rows)) if table.rows else len(title)
        for i, title in enumerate(table.columns)
    ]
    lines = [
        " " * (first + 2)
        + "   ".join(title.rjust(width) for title, width in zip(table.columns, widths, strict=True))
    ]
    family = ""
    for row, name in zip(table.rows, names, strict=True):
        entry = explain_metric(row.key)
        if entry.family != family:
            family = entry.family
            lines += ["", f"{family}  {FAMILIES[family]}"]
        cells = "   ".join(cell.rjust(width) for cell, width in zip(row.cells, widths, strict=True))
        lines.append(f"  {name.ljust(first)}{cells}".rstrip())
    return "\n".join(lines)


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
    parts = [f"# Neural collapse of {_escape(report['model']['name'])}", ""]
    parts += [f"> **Note.** {_escape(note)}\n" for note in wording.warnings(report)]
    parts += [_escape(wording.summary(report)), ""]
    parts += [f"- {_escape(sentence)}" for sentence in wording.findings(report)]
    parts += ["", "## Side by side", "", *_comparison_lines(report), ""]
    parts += [*_group_lines(report), *_dropped_lines(report)]
    parts += ["## What the rows mean", "", *_glossary_lines(report), ""]
    parts += ["## How it was measured", ""]
    parts += [f"- {_escape(name)}: {_escape(value)}" for name, value in wording.facts(report)]
    return "\n".join(parts) + "\n"


def _escape(text: object) -> str:
    """Keep words such as ``*`` or ``a|b`` from becoming Markdown."""
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


def _comparison_lines(report: Mapping[str, Any]) -> list[str]:
    table = compare_sets(report)
    rows = []
    for row in table.rows:
        entry = explain_metric(row.key)
        rows.append([f"{entry.family}: {_escape(entry.title)} `{row.key}`", *row.cells])
    return markdown_table(["metric", *(_escape(c) for c in table.columns)], rows)


def _group_lines(report: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, section in report["sets"].items():
        if section["kind"] != "words" or not section.get("groups"):
            continue
        rows = [
            [
                _escape(group),
                format_number(values["classes"]),
                format_number(values["tokens"]),
                format_number(values["cosine_mean"]),
                format_number(values["norm_mean"]),
            ]
            for group, values in section["groups"].items()
        ]
        header = ["group", "classes", "tokens", "mean cosine", "mean length"]
        lines += [f"## Groups of {_escape(name)}", "", *markdown_table(header, rows), ""]
    return lines


def _dropped_lines(report: Mapping[str, Any]) -> list[str]:
    lines = ["## What was left out", ""]
    lines += [f"- {_escape(sentence)}" for sentence in wording.dropped_tokens(report)]
    for name, section in report["sets"].items():
        for reason, words in wording.dropped_words(section).items():
            listed = ", ".join(_escape(word) for word in words)
            entry = f"- {_escape(name)}, {_escape(reason)} ({len(words)}): {listed}"
            lines += textwrap.wrap(
                entry, 100, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
            )
        for key, reason in section["notes"].items():
            lines.append(f"- {_escape(name)}, `{key}`: {_escape(reason)}")
    return [*lines, ""]


def _glossary_lines(report: Mapping[str, Any]) -> list[str]:
    lines = []
    for row in compare_sets(report).rows:
        entry = explain_metric(row.key)
        direction = f" ({entry.direction})" if entry.direction else ""
        lines.append(f"- **{_escape(entry.title)}** `{row.key}`: {entry.meaning}{direction}")
    return lines
