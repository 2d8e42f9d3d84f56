"""Tables on a terminal, drawn by ``rich`` to the width there is; plain text everywhere else.

A number is never cut or wrapped: names, intervals and headings give way first. Where the output is
no terminal, or ``rich`` is not installed, the same rows come as :mod:`ncfast.reporting.plain`.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from .columns import Column, cell_lines, fitting
from .comparison_tables import comparison_table, notes, sides
from .glossary import FAMILIES, explain_metric
from .layers import how_layers, layer_tables
from .leading import LEADING, LeadingTable, how_read, leading_tables
from .plain import aligned, leading_text, printable, text_table
from .series import series_table, verdict_of_series
from .tables import Comparison, compare_sets
from .verdict import verdict

PLAIN_WIDTH = 100
READABLE = 100  # sentences are not spread over wider terminals
ROOMY = 100  # from this width on there is room for what a metric asks


class Terminal:
    """Write sentences and tables to a stream, fitted to it.

    Args:
        stream: where to write; default standard output.
        width: columns to fill; default what the terminal has (or the variable ``COLUMNS``).
        rich: draw with ``rich``; default: where it is installed and the stream is a terminal.

    Example:
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

        Args:
            text: the lines.

        Example:
            >>> Terminal(rich=False).write("a  b")
            a  b
        """
        print(printable(text, getattr(self.stream, "encoding", None)), file=self.stream)

    def say(self, sentence: str) -> None:
        """Write a sentence, wrapped to the width.

        Args:
            sentence: plain text.

        Example:
            >>> Terminal(rich=False, width=12).say("one two three")
            one two
            three
        """
        self.write(textwrap.fill(sentence, min(self.width, READABLE), break_on_hyphens=False))

    def report(self, report: Mapping[str, Any], everything: bool = False) -> None:
        """Write the leading rows of a report, and every metric where asked for.

        Args:
            report: a report document.
            everything: write the whole side-by-side table too.

        Example:
            >>> Terminal(rich=False).report({"sets": {}})
        """
        found = leading_tables(report)
        for table in found:
            self.write()
            self.leading(table)
        if explained := how_read(found):
            self.say(explained)
        if layers := report.get("layers"):
            self.layers(layers)
        if not everything:
            return
        if self._console is None:
            self.write()
            self.write(text_table(compare_sets(report, brief=True)))
            return
        names = [name for name, section in report["sets"].items() if section["kind"] == "words"]
        for name in names or [None]:
            self.write()
            self.metrics(compare_sets(report, brief=True, words=name))

    def layers(self, layers: Mapping[str, Any]) -> None:
        """Write the leading metrics of every layer, a table per set.

        Args:
            layers: the ``layers`` part of a report.

        Example:
            >>> points = [{"layer": 0, "sets": {"vocabulary": {"nc3_mean": 0.5}}}]
            >>> found = {"count": 2, "head": "none", "points": points}
            >>> Terminal(rich=False, width=80).layers(found)  # doctest: +ELLIPSIS
            <BLANKLINE>
            Layer 0 is what enters the first block (the embeddings), ...
            == layers: vocabulary ==
            layer  NC3
            0      0.5
        """
        self.write()
        self.say(how_layers(layers))
        for name, header, rows in layer_tables(layers):
            self.write(f"\n== layers: {name} ==")
            if self._console is None:
                self.write("\n".join(aligned([header, *rows])))
                continue
            columns = [
                Column(title, [(row[i], "") for row in rows]) for i, title in enumerate(header)
            ]
            self._draw(columns[0], columns[1:])

    def leading(self, table: LeadingTable) -> None:
        """Write one leading table.

        Args:
            table: from ``leading_tables``.

        Example:
            >>> Terminal(rich=False).leading(LeadingTable("", ("vocabulary",), ()))
            Metric  collapsed  vocabulary  what it is
        """
        if self._console is None:
            self.write(leading_text(table))
            return
        roomy = self.width >= ROOMY
        readings = [LEADING[row.key] for row in table.rows]
        names = Column("Metric", [(r.name, r.asks if roomy else r.collapsed) for r in readings], 0)
        columns = [Column("collapsed", [(r.collapsed, "") for r in readings], 0)] if roomy else []
        columns += [
            Column(title, [(row.cells[i], row.details[i]) for row in table.rows])
            for i, title in enumerate(table.columns)
        ]
        if table.name:
            said = [(row.words, "") for row in table.rows]
            columns.append(Column(f"{table.name} words are", said, 0))
        self._draw(names, columns)
        if not roomy:
            asked = "; ".join(f"{reading.name}: {reading.asks}" for reading in readings)
            self.say(f"{asked}. Under each name: the value, or direction, of a collapsed model.")

    def metrics(self, table: Comparison) -> None:
        """Write a table of metrics, families apart.

        Args:
            table: columns and rows.

        Example:
            >>> Terminal(rich=False).metrics(Comparison(("all",), ()))
              all
        """
        if self._console is None:
            self.write(text_table(table))
            return
        names: list[tuple[str, str]] = []
        cells: list[list[tuple[str, str]]] = [[] for _ in table.columns]
        family = ""
        for row in table.rows:
            entry = explain_metric(row.key)
            if entry.family != family:
                family = entry.family
                names.append((f"== {family} ==", FAMILIES[family] if self.width >= ROOMY else ""))
                for column in cells:
                    column.append(("", ""))
            names.append((entry.title, ""))
            for index, column in enumerate(cells):
                column.append((row.cells[index], row.details[index]))
        columns = [Column(title, c) for title, c in zip(table.columns, cells, strict=True)]
        self._draw(Column("Metric", names, 0), columns)

    def comparison(self, document: Mapping[str, Any], everything: bool = False) -> None:
        """Write a comparison: what it comes to, what was compared, the tables.

        Args:
            document: a comparison document.
            everything: write every metric, not the leading ones alone.

        Example:
            >>> empty = {"labels": [], "reports": [], "only_in": [], "left_out": {}, "sets": {}}
            >>> Terminal(rich=False, width=40).comparison({"differences": [], **empty})
            Changed beyond its interval: nothing.
            Not changed beyond their intervals:
            nothing that has intervals.
            Cannot be said: whether another seed or
            another text would give the same: one
            run of each.
            <BLANKLINE>
        """
        for sentence in verdict(document):
            self.say(sentence)
        self.write()
        for side in sides(document):
            self.say(side)
        for note in notes(document):
            self.say(f"Note: {note}")
        keys = None if everything else LEADING
        marked = False
        for name in document["sets"]:
            table = comparison_table(document, name, brief=True, keys=keys)
            marked |= any("*" in row.details for row in table.rows)
            self.write(f"\n== {name} ==")
            self.metrics(table)
        if marked:
            self.say("* the bootstrap intervals of the two values lie apart")

    def series(self, document: Mapping[str, Any], everything: bool = False) -> None:
        """Write several reports side by side, a table per set.

        Args:
            document: a series document.
            everything: write every metric, not the leading ones alone.

        Example:
            >>> empty = {"labels": ["a", "b"], "verdict": ["Nothing."], "series": {}}
            >>> Terminal(rich=False).series(empty | {"differences": []})
            From a to b. Nothing.
        """
        for sentence in verdict_of_series(document):
            self.say(sentence)
        for note in document["differences"]:
            self.say(f"Note: {note}")
        for name in document["series"]:
            self.write(f"\n== {name} ==")
            self.metrics(series_table(document, name, everything))

    def _draw(self, names: Column, columns: Sequence[Column]) -> None:
        """Draw a table; columns that do not fit beside each other come in another below it."""
        from rich import box
        from rich.table import Table

        rest = list(columns)
        while rest:
            shown, rest = fitting(names, rest, self.width)
            drawn = Table(box=box.ROUNDED, padding=(0, 1), show_lines=False)
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
