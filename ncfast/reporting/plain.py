"""Tables as plain text: for files, pipes and terminals without ``rich``.

Columns stand at least two spaces apart and no cell holds two spaces in a row, so that splitting a
line at two spaces or more gives its cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .blocks import Cell, Column, Group, Table, lines_of
from .leading import leading_tables
from .metric_blocks import leading_blocks, metric_table
from .tables import compare_sets

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

    What cannot be encoded becomes ASCII in place of signs, and backslash escapes in place of
    letters.

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
    """Draw the leading rows of a report, and every metric after them, as lines of plain text.

    >>> render_text({"sets": {}}, everything=False)
    ''
    """
    blocks = leading_blocks(leading_tables(report))
    parts = [text_of(block) for block in blocks if isinstance(block, Table)]
    if everything:
        parts.append(text_of(metric_table(compare_sets(report, brief=True))))
    return "\n\n".join(parts)


def text_of(table: Table) -> str:
    """Draw a table as plain text, a line per row: words to the left, numbers to the right.

    Details stand after numbers, rows of a group below its name, and the names' details last where
    the table has a title for them.

    >>> from ncfast.reporting.blocks import Cell, Column, Group
    >>> columns = [Column("Metric", words=True), Column("all")]
    >>> rows = [Group("Size", "How much."), [Cell("Tokens"), Cell("12")]]
    >>> print(text_of(Table(columns, rows)))
              all
    <BLANKLINE>
    Size  How much.
      Tokens   12
    """
    rows = lines_of(table)
    grouped = len(rows) < len(table.rows)
    columns = [
        _column("" if grouped and not place else column, [row[place] for row in rows], not place)
        for place, column in enumerate(table.columns)
    ]
    if table.about:
        columns.append([table.about, *(row[0].detail for row in rows)])
    indent = "  " if grouped else ""
    lines = [f"{indent}{'  '.join(cells)}".rstrip() for cells in zip(*columns, strict=True)]
    drawn, rest = [lines[0]], iter(lines[1:])
    for row in table.rows:
        if isinstance(row, Group):
            drawn += ["", f"{row.name}  {row.text}".rstrip()]
        else:
            drawn.append(next(rest))
    return "\n".join(drawn)


def _column(column: Column | str, cells: Sequence[Cell], names: bool) -> list[str]:
    """Return the title and the cells of a column, all of one width."""
    title, words = (column.title, column.words) if isinstance(column, Column) else ("", True)
    width = max((len(cell.text) for cell in cells), default=0)
    details = [] if names else [len(cell.detail) for cell in cells]
    extra = max(details, default=0)
    texts = [
        f"{cell.text:>{width}} {cell.detail:<{extra}}" if extra else cell.text for cell in cells
    ]
    full = max(map(len, [title, *texts]))
    return [text.ljust(full) if words else text.rjust(full) for text in [title, *texts]]
