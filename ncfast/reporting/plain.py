"""Tables as plain text: for files, pipes and terminals without ``rich``.

Columns stand at least two spaces apart and no cell holds two spaces in a row, so that splitting a
line at two spaces or more gives its cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .glossary import FAMILIES, explain_metric
from .leading import LEADING, LeadingTable, leading_tables
from .tables import Comparison, compare_sets

# What a terminal or file that cannot hold it gets in its place.
ASCII = str.maketrans(
    {
        "±": "+/-",
        "\u2212": "-",
        "\u00d7": "x",
        "\u2423": "_",
        "\u2026": "...",
        "\u201c": '"',
        "\u201d": '"',
        "\u2019": "'",
        "\u2013": "-",
        "\u2192": "->",
    }
)


def printable(text: str, encoding: str | None) -> str:
    """Make text printable where it is going, losing no word of it.

    Args:
        text: what to print.
        encoding: the encoding of the stream; None is taken as ASCII.

    Returns:
        The text as it is where it can be encoded; else with ASCII in place of signs, and
        backslash escapes in place of letters the encoding lacks.

    Example:
        >>> print(printable("0.12 ± 0.01 fiancé", "ascii"))
        0.12 +/- 0.01 fianc\\xe9
    """
    encoding = encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(ASCII)
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return printable(text, "ascii")
    return text


def render_text(report: Mapping[str, Any], everything: bool = True) -> str:
    """Draw the tables of a report as plain text.

    Args:
        report: a report document.
        everything: the leading rows and then every metric; False for the leading rows alone.

    Returns:
        Lines of plain text, numbers aligned to the right.

    Example:
        >>> print(render_text(report))  # doctest: +SKIP
    """
    parts = [leading_text(table) for table in leading_tables(report)]
    if everything:
        parts.append(text_table(compare_sets(report, brief=True)))
    return "\n\n".join(parts)


def leading_text(table: LeadingTable) -> str:
    """Draw a leading table as plain text.

    Args:
        table: from ``leading_tables``.

    Returns:
        Its lines, a header and one per metric.

    Example:
        >>> print(leading_text(LeadingTable("", ("vocabulary",), ())))
        Metric  collapsed  vocabulary  what it is
    """
    header = ["Metric", "collapsed", *table.columns]
    header += [f"{table.name} words are"] if table.name else []
    lines = [[*header, "what it is"]]
    for row in table.rows:
        cells = [
            f"{cell} {detail}".strip() for cell, detail in zip(row.cells, row.details, strict=True)
        ]
        line = [LEADING[row.key].name, LEADING[row.key].collapsed, *cells]
        lines.append([*line, *([row.words] if table.name else []), LEADING[row.key].asks])
    return "\n".join(aligned(lines, words=(0, 1, len(lines[0]) - 1)))


def aligned(lines: Sequence[Sequence[str]], words: Sequence[int] = (0,)) -> list[str]:
    """Align cells in columns that stand two spaces apart.

    Args:
        lines: rows of equally many cells.
        words: which columns are aligned to the left; the others to the right.

    Returns:
        One text per row.

    Example:
        >>> aligned([["a", "1"], ["bcd", "22"]])
        ['a     1', 'bcd  22']
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place in words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def text_table(table: Comparison) -> str:
    """Draw a table of metrics for a terminal.

    Args:
        table: columns and rows.

    Returns:
        Lines of plain text, families apart, numbers aligned to the right, details after them.

    Example:
        >>> from ncfast.reporting.tables import Row
        >>> print(text_table(Comparison(("all",), (Row("tokens", ("12",), ("",)),))))
                  all
        <BLANKLINE>
        Size  How much was measured.
          Tokens   12
    """
    names = [explain_metric(row.key).title for row in table.rows]
    first = max(map(len, names), default=0) + 2
    columns = []
    for index, title in enumerate(table.columns):
        cells = [row.cells[index] for row in table.rows]
        details = [row.details[index] for row in table.rows]
        width, extra = max(map(len, cells), default=0), max(map(len, details), default=0)
        joined = [
            f"{cell:>{width}} {detail:<{extra}}" if extra else f"{cell:>{width}}"
            for cell, detail in zip(cells, details, strict=True)
        ]
        full = max(len(title), *map(len, joined)) if joined else len(title)
        columns.append([title.rjust(full), *(text.rjust(full) for text in joined)])
    lines = [" " * (first + 2) + "   ".join(column[0] for column in columns)]
    family = ""
    for number, (row, name) in enumerate(zip(table.rows, names, strict=True), start=1):
        entry = explain_metric(row.key)
        if entry.family != family:
            family = entry.family
            lines += ["", f"{family}  {FAMILIES[family]}"]
        cells_of_row = "   ".join(column[number] for column in columns)
        lines.append(f"  {name.ljust(first)}{cells_of_row}".rstrip())
    return "\n".join(lines)
