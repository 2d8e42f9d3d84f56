"""What ``ncfast bench`` shows: a table of every op, who did it, and who was not timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..reporting.blocks import Block, Cell, Column, Group, Heading, Items, Paragraph, Table
from ..reporting.document import write_document
from ..reporting.html import render_html
from ..reporting.markdown import blocks_to_markdown
from ..reporting.wording import time_text

__all__ = ["bench_blocks", "write_bench"]

TITLE = "ncfast bench"
COLUMNS = (
    Column("by", words=True),
    Column("version", words=True),
    Column("time"),
    Column("quartiles"),
    Column("times the bound"),
    Column("extra memory"),
)


def bench_blocks(document: Mapping[str, Any]) -> list[Block]:
    """Return what the machine is, the table, and who was not timed and why."""
    machine = document["machine"]
    blocks: list[Block] = []
    blocks.append(
        Paragraph(
            f"{machine['date']}; {machine['device']}; {machine['threads']} of {machine['cores']} "
            f"cores; ncfast {machine['ncfast']} at commit {machine['commit']}; "
            f"torch {machine['torch']}; Python {machine['python']}."
        )
    )
    blocks.append(
        Paragraph(
            f"The bound of an op is the time of its least bytes at {machine['copy_gb_s']:.1f} GB/s "
            f"(a large copy) or of its least arithmetic at {machine['sgemm_gflop_s']:.0f} GFLOP/s "
            "(a product of matrices), the longer of both, measured in this run; what lies in the "
            "cache can be faster. Nobody is timed whose results on small inputs are not right. "
            "Extra memory is the peak beside outputs.",
            style="soft",
        )
    )
    if document["rows"]:
        blocks.append(Table(COLUMNS, _lines(document["rows"]), label="time of every op"))
    if document["absent"]:
        blocks.append(Heading("Not timed"))
        blocks.append(
            Items([f"{one['op']}, {one['by']}: {one['reason']}" for one in document["absent"]])
        )
    return blocks


def _lines(rows: Sequence[Mapping[str, Any]]) -> list[Sequence[Cell] | Group]:
    lines: list[Sequence[Cell] | Group] = []
    shown = ""
    for row in rows:
        if row["op"] != shown:
            shape = row["shape"]
            tokens = f"N={shape['tokens']:,} " if shape["tokens"] else ""
            size = f"{tokens}V={shape['rows']:,} D={shape['width']:,}"
            bound = f"bound {time_text(row['bound_seconds'])} of {row['bound_of']}"
            lines.append(Group(row["op"], f"{size}, {bound}"))
            shown = row["op"]
        low, high = map(time_text, row["quartiles"])
        extra = row["extra_bytes"]
        lines.append(
            [
                Cell(row["by"], detail=row["note"]),
                Cell(row["version"]),
                Cell(time_text(row["seconds"]), order=f"{row['seconds']:.9f}"),
                Cell(f"{low} to {high}" if row["repeats"] > 1 else "once"),
                Cell(f"{row['over_bound']:.2f}"),
                Cell("not measured" if extra is None else f"{extra / 2**20:,.0f} MiB"),
            ]
        )
    return lines


def write_bench(document: Mapping[str, Any], folder: Path) -> Path:
    """Write ``bench.html``, ``bench.md`` and ``bench.json``; return the path of the page."""
    blocks = bench_blocks(document)
    markdown = blocks_to_markdown(blocks, TITLE)
    write_document(folder, "bench", document, markdown, render_html(TITLE, blocks))
    return folder / "bench.html"
