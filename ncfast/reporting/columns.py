"""How wide the columns of a table on a terminal are: no number is broken, names give way first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FRAME = 3  # a border and two spaces for each column


@dataclass(frozen=True)
class Column:
    """Hold a column of a table: its title and, per row, a value and what stands under it.

    >>> Column("gender", [("0.31", "[0.29, 0.33]")]).narrowest
    6
    """

    title: str  # its heading
    cells: Sequence[tuple[str, str]]  # (value, detail) per row
    number: int = 1  # 1 for numbers, which are never broken; 0 for words

    @property
    def narrowest(self) -> int:
        """Return the width below which a word or number would be broken."""
        words = [word for cell in self.cells for text in cell for word in text.split()]
        return max(map(len, [*self.title.split(), *words]), default=1)

    @property
    def widest(self) -> int:
        """Return the width at which nothing wraps."""
        texts = [text for value, detail in self.cells for text in cell_lines(value, detail)]
        return max(map(len, [self.title, *texts]))


def fitting(
    names: Column, columns: Sequence[Column], width: int
) -> tuple[list[tuple[Column, int]], list[Column]]:
    """Return the names and the columns that fit beside them, at least one, each with its width; and
    the rest.

    >>> names, one = Column("Metric", [("NC3", "")], 0), Column("all", [("0.31", "")])
    >>> shown, rest = fitting(names, [one, one, one], 20)
    >>> [width for _, width in shown], len(rest)
    ([6, 4], 2)
    """
    room, shown = width - 1, [names]
    for column in columns:
        if len(shown) > 1 and _needed([*shown, column]) > room:
            break
        shown.append(column)
    rest = list(columns[len(shown) - 1 :])
    widths = [column.widest for column in shown]
    least = [column.narrowest for column in shown]
    spare = sum(widths) + FRAME * len(shown) - room
    while spare > 0:  # take from the widest column that can give
        giving = max(range(len(shown)), key=lambda i: (widths[i] > least[i], widths[i]))
        if widths[giving] <= least[giving]:
            break
        widths[giving] -= 1
        spare -= 1
    return list(zip(shown, widths, strict=True)), rest


def _needed(columns: Sequence[Column]) -> int:
    return sum(column.narrowest + FRAME for column in columns)


def cell_lines(text: str, detail: str) -> list[str]:
    """Put a detail on a line under its value; a star stays beside it.

    >>> cell_lines("0.3", "[0.2, 0.4]"), cell_lines("0.3", "*")
    (['0.3', '[0.2, 0.4]'], ['0.3 *'])
    """
    return [f"{text} {detail}"] if detail == "*" else [text, detail] if detail else [text]
