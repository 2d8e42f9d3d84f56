"""Tables on a terminal, drawn by ``rich`` to the width there is; plain text everywhere else.

A number is never cut or wrapped: names, intervals and headings give way first. Where the output is
no terminal, or ``rich`` is not installed, the same rows come as :mod:`ncfast.reporting.plain`.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from ..catalogue import LEADING
from .blocks import (
    Block,
    Definitions,
    Details,
    Group,
    Heading,
    Items,
    Paragraph,
    Table,
    lines_of,
)
from .columns import Column as Fitted
from .columns import cell_lines, fitting
from .comparison_tree import comparison_summary
from .layers import layer_blocks
from .leading import leading_tables
from .metric_blocks import leading_blocks, metric_table
from .plain import printable, text_of
from .series import series_summary
from .tables import compare_sets

PLAIN_WIDTH = 100
READABLE = 100  # sentences are not spread over wider terminals
ROOMY = 100  # from this width on there is room for what a metric asks


class Terminal:
    """Write sentences and tables to a stream, fitted to it.

    Args:
        stream: where to write; default standard output.
        width: columns to fill; default what the terminal has (or the variable ``COLUMNS``).
        rich: draw with ``rich``; default: where it is installed and the stream is a terminal.

    >>> Terminal(rich=False).say("Nothing was measured.")
    Nothing was measured.
    """

    def __init__(
        self, stream: TextIO | None = None, width: int | None = None, rich: bool | None = None
    ) -> None:
        self.stream = sys.stdout if stream is None else stream
        self._console = _console(self.stream, width) if rich in (None, True) else None
        if rich is None and self._console is not None and not self._console.is_terminal:
            self._console = None
        self.width = self._console.width if self._console is not None else width or PLAIN_WIDTH

    def write(self, text: str = "") -> None:
        """Write lines as they are.

        >>> Terminal(rich=False).write("a  b")
        a  b
        """
        print(printable(text, getattr(self.stream, "encoding", None)), file=self.stream)

    def say(self, sentence: str) -> None:
        """Write a sentence, wrapped to the width.

        >>> Terminal(rich=False, width=12).say("one two three")
        one two
        three
        """
        self.write(textwrap.fill(sentence, min(self.width, READABLE), break_on_hyphens=False))

    def report(self, report: Mapping[str, Any], everything: bool = False) -> None:
        """Write the leading rows of a report, and every metric where asked for.

        >>> Terminal(rich=False).report({"sets": {}})
        """
        self.blocks(leading_blocks(leading_tables(report)))
        self.blocks(layer_blocks(report.get("layers")))
        if not everything:
            return
        words = [name for name, section in report["sets"].items() if section["kind"] == "words"]
        # What wraps can be wide; what fits a terminal comes set by set.
        for name in (words or [None]) if self._console is not None else [None]:
            self.blocks([metric_table(compare_sets(report, brief=True, words=name))])

    def comparison(self, document: Mapping[str, Any], everything: bool = False) -> None:
        """Write a comparison: what it comes to, what was compared, the tables.

        >>> empty = {"labels": [], "reports": [], "only_in": [], "left_out": {}, "sets": {}}
        >>> Terminal(rich=False, width=40).comparison({"differences": [], **empty})
        Changed beyond its interval: nothing.
        Not changed beyond their intervals:
        nothing that has intervals.
        Cannot be said: whether another seed or
        another text would give the same: one
        run of each.
        """
        self.blocks(comparison_summary(document, None if everything else LEADING))

    def series(self, document: Mapping[str, Any], everything: bool = False) -> None:
        """Write several reports side by side, a table per set.

        >>> empty = {"labels": ["a", "b"], "verdict": ["Nothing."], "series": {}}
        >>> Terminal(rich=False).series(empty | {"differences": []})
        From a to b. Nothing.
        """
        self.blocks(series_summary(document, everything))

    def blocks(self, blocks: Iterable[Block]) -> None:
        """Write blocks; what only a page can show is left out.

        >>> Terminal(rich=False).blocks([Paragraph("Read this.", "note"), Items(["One."])])
        Note: Read this.
        One.
        """
        headed = False  # a table stands right under its heading
        for block in blocks:
            if isinstance(block, Heading):
                self.write(f"\n== {block.text} ==")
            elif isinstance(block, Paragraph):
                self.say(f"Note: {block.text}" if block.style == "note" else block.text)
            elif isinstance(block, Items):
                for text in block.texts:
                    self.say(text)
            elif isinstance(block, Definitions):
                for entry in block.entries:
                    self.say(f"{entry.title}: {entry.text}")
            elif isinstance(block, Details):
                self.blocks([Heading(block.summary), *block.blocks])
            elif isinstance(block, Table):
                if not headed:
                    self.write()
                self.table(block)
            headed = isinstance(block, Heading)

    def table(self, table: Table) -> None:
        """Write a table, fitted to the width.

        >>> from ncfast.reporting.blocks import table
        >>> Terminal(rich=False).table(table(["layer", "NC3"], [["0", "0.5"]]))
        layer  NC3
        0      0.5
        """
        if self._console is None:
            self.write(text_of(table))
            return
        roomy = self.width >= ROOMY
        folds = next((i for i, column in enumerate(table.columns) if column.folds), 0)
        shown = [i for i, column in enumerate(table.columns) if roomy or not column.folds]
        cells: list[list[tuple[str, str]]] = [[] for _ in shown]
        for row in table.rows:
            if isinstance(row, Group):
                line = [(f"== {row.name} ==", row.text if roomy else ""), *[("", "")] * len(shown)]
            else:
                about = (row[0].detail if table.about else "") if roomy else row[folds].text
                first = (row[0].text, about if roomy or folds else "")
                line = [first, *((row[i].text, row[i].detail) for i in shown[1:])]
            for column, cell in zip(cells, line, strict=False):
                column.append(cell)
        names, *rest = (
            Fitted(table.columns[i].title, found, int(not table.columns[i].words))
            for i, found in zip(shown, cells, strict=True)
        )
        self._draw(names, rest)
        if folds and not roomy:
            asked = "; ".join(f"{row[0].text}: {row[0].detail}" for row in lines_of(table))
            self.say(f"{asked}. Under each name: the value, or direction, of a collapsed model.")

    def _draw(self, names: Fitted, columns: Sequence[Fitted]) -> None:
        """Draw a table; columns that do not fit beside each other come in another below it."""
        from rich import box
        from rich.table import Table as Drawn

        rest = list(columns)
        while rest:
            shown, rest = fitting(names, rest, self.width)
            drawn = Drawn(box=box.ROUNDED, padding=(0, 1), show_lines=False)
            for column, width in shown:
                justify: Any = "right" if column.number else "left"
                drawn.add_column(_cell(column.title), justify=justify, width=width, overflow="fold")
            for row in zip(*(column.cells for column, _ in shown), strict=True):
                drawn.add_row(*(_cell(*cell) for cell in row))
            with self._console.capture() as captured:  # type: ignore[union-attr]
                self._console.print(drawn)  # type: ignore[union-attr]
            self.write(captured.get().rstrip("\n"))


def _console(stream: TextIO, width: int | None) -> Any:
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def _cell(text: str, detail: str = "") -> Any:
    from rich.text import Text

    first, *rest = cell_lines(text, detail)
    found = Text(first)
    for line in rest:
        found.append(f"\n{line}", style="dim")
    return found
