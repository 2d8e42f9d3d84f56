"""Blocks as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from .blocks import (
    Block,
    Cell,
    Definition,
    Definitions,
    Details,
    Group,
    Heading,
    Items,
    Paragraph,
    Table,
)


def escape_markdown(text: object) -> str:
    """Keep words such as ``*`` or ``a|b`` from becoming Markdown.

    >>> print(escape_markdown("a|b"))
    a\\|b
    """
    plain = " ".join(str(text).split())
    return "".join("\\" + mark if mark in "\\`*_[]<>#|" else mark for mark in plain)


def blocks_to_markdown(blocks: Iterable[Block], title: str = "") -> str:
    """Draw blocks as Markdown, below a title if one is given; what only a page can show is left
    out.

    >>> blocks_to_markdown([Paragraph("1 < 2")], "Title")
    '# Title\\n\\n1 \\\\< 2\\n'
    """
    head: list[Block] = [Heading(title, 1)] if title else []
    parts = [found for block in [*head, *blocks] if (found := _drawn(block))]
    # Neighbouring items make one list.
    text = ""
    for before, part in zip(["", *parts], parts, strict=False):
        close = before.startswith("- ") and part.startswith("- ")
        text += ("\n" if close else "\n\n" if before else "") + part
    return text + "\n"


def _drawn(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {escape_markdown(block.text)}"
    if isinstance(block, Paragraph):
        note = "> **Note.** " if block.style == "note" else ""
        return note + escape_markdown(block.text)
    if isinstance(block, Items):
        mark = "1." if block.ordered else "-"
        return "\n".join(f"{mark} {escape_markdown(text)}" for text in block.texts)
    if isinstance(block, Definitions):
        return "\n".join(map(_definition, block.entries))
    if isinstance(block, Table):
        return "\n".join(_table_lines(block))
    if isinstance(block, Details):
        if all(isinstance(inner, Paragraph) for inner in block.blocks):
            return _wrapped(block)
        inside = blocks_to_markdown(block.blocks)
        return f"### {escape_markdown(block.summary)}\n\n{inside}".rstrip()
    return ""  # of the page alone


def _definition(entry: Definition) -> str:
    key = f" `{entry.key}`" if entry.key else ""
    aside = f" ({escape_markdown(entry.aside)})" if entry.aside else ""
    return f"- **{escape_markdown(entry.title)}**{key}: {escape_markdown(entry.text)}{aside}"


def _wrapped(block: Details) -> str:
    said = " ".join(inner.text for inner in block.blocks if isinstance(inner, Paragraph))
    entry = f"- {escape_markdown(block.summary)}: {escape_markdown(said)}"
    lines = textwrap.wrap(
        entry, 100, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table with the first column to the left and the others to the right.

    >>> markdown_table(["a", "b"], [["x", "1"]])[1]
    '|---|---:|'
    """
    rule = "|" + "|".join(["---"] + ["---:"] * (len(header) - 1)) + "|"
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return [lines[0], rule, *lines[1:]]


def _table_lines(block: Table) -> list[str]:
    group, rows = "", []
    for row in block.rows:
        if isinstance(row, Group):
            group = f"{escape_markdown(row.name)}: "
            continue
        first, *rest = row
        about = f": {escape_markdown(first.detail)}" if block.about and first.detail else ""
        key = f" `{first.key}`" if first.key else ""
        name = f"{group}{escape_markdown(first.text)}{about}{key}"
        rows.append([name, *map(_joined, rest)])
    lines = markdown_table([escape_markdown(c.title) for c in block.columns], rows)
    return [*lines, "", escape_markdown(block.caption)] if block.caption else lines


def _joined(cell: Cell) -> str:
    return f"{escape_markdown(cell.text)} {escape_markdown(cell.detail)}".strip()
