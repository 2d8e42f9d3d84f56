"""What every report is made of: a tree of blocks, which a page, Markdown and a terminal draw.

A report section is a function that returns blocks. :mod:`.html`, :mod:`.markdown` and
:mod:`.terminal` each draw all kinds, so that a section is written once. Text is plain text
everywhere: each writer escapes it. Figures, legends and cards are of the page alone, and so is
what stands in ``PageOnly``; the JSON file is the document the tree was made from.

>>> from ncfast.reporting.html import render_html
>>> from ncfast.reporting.markdown import blocks_to_markdown
>>> tree = [Heading("Scores"), table(["model", "score"], [["a|b", "0.5"]])]
>>> print(blocks_to_markdown(tree), end="")
## Scores
<BLANKLINE>
| model | score |
|---|---:|
| a\\|b | 0.5 |
>>> "<h2>Scores</h2>" in render_html("Title", tree)
True
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# Where a number to sort by is not known, so that the row goes last.
UNKNOWN = "NaN"


@dataclass(frozen=True)
class Heading:
    """Hold a heading; level 1 is the title, ``id`` what a link on the page leads to."""

    text: str
    level: int = 2
    id: str = ""


@dataclass(frozen=True)
class Paragraph:
    """Hold a paragraph; ``style`` is "" or "soft" (an explanation) or "note" (read this first)."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Items:
    """Hold a list of sentences, numbered where ``ordered``."""

    texts: Sequence[str]
    ordered: bool = False
    style: str = ""


@dataclass(frozen=True)
class Definition:
    """Hold a title and its text, with a key and an aside ("lower = more collapsed") if any."""

    title: str
    text: str
    key: str = ""
    aside: str = ""


@dataclass(frozen=True)
class Definitions:
    """Hold a glossary, or with the style "facts" names and values."""

    entries: Sequence[Definition]
    style: str = ""


@dataclass(frozen=True)
class Cell:
    """Hold a cell of a table."""

    text: str  # the value, or the name of a row
    detail: str = ""  # what stands under or after it: an interval, a standard error, an explanation
    link: str = ""  # the id it leads to on a page
    key: str = ""  # a code name that Markdown adds
    style: str = ""  # a class of the page's style sheet
    order: str = ""  # the number the page sorts by, ``UNKNOWN`` for none; empty sorts by the text


@dataclass(frozen=True)
class Column:
    """Hold a column's title; ``words``: to the left; ``folds``: under the name where narrow."""

    title: str
    words: bool = False
    folds: bool = False


@dataclass(frozen=True)
class Group:
    """Hold a line of a table that names the rows below it."""

    name: str
    text: str = ""


@dataclass(frozen=True)
class Table:
    """Hold a table; the first cell of a row is its name."""

    columns: Sequence[Column]  # as many as every row has cells
    rows: Sequence[Sequence[Cell] | Group]  # cells, with groups between them
    caption: str = ""  # what it shows
    label: str = ""  # what a screen reader announces
    about: str = ""  # the title of the names' details, where a terminal and Markdown show them too
    search: str = ""  # an id, for a table that a page can search and sort


@dataclass(frozen=True)
class Figure:
    """Hold an SVG element of :mod:`.plots`, trusted as it is; the caption begins with a title."""

    caption: str
    drawing: str


@dataclass(frozen=True)
class Grid:
    """Hold small figures that stand side by side."""

    figures: Sequence[Figure]


@dataclass(frozen=True)
class Legend:
    """Hold the names of a drawing's colours: name -> class of the style sheet."""

    styles: Mapping[str, str]


@dataclass(frozen=True)
class Cards:
    """Hold a few large numbers with what each of them is."""

    entries: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Details:
    """Hold blocks that a page opens on request."""

    summary: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class PageOnly:
    """Hold blocks that would be too long outside of a page."""

    blocks: Sequence[Block]


Block = (
    Heading
    | Paragraph
    | Items
    | Definitions
    | Table
    | Figure
    | Grid
    | Legend
    | Cards
    | Details
    | PageOnly
)


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", label: str = ""
) -> Table:
    """Make a table of plain texts, the first column of words and the others of numbers."""
    columns = [Column(title, words=not i) for i, title in enumerate(header)]
    return Table(columns, [[Cell(str(c)) for c in row] for row in rows], caption, label)


def lines_of(found: Table) -> list[Sequence[Cell]]:
    """Return the rows of a table without its groups."""
    return [row for row in found.rows if not isinstance(row, Group)]
