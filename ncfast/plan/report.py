"""Plans as tables: what a device holds, what it sends, what fits."""

from __future__ import annotations

from collections.abc import Sequence

from ..reporting.blocks import Block, Cell, Column, Items, Paragraph, Table
from ..reporting.wording import time_text
from .job import RESERVE, DevicePlan

__all__ = ["Bandwidths", "plan_blocks", "size_text"]

# Names of the parts of a plan in the order of a table, and what they are called.
_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimiser",
    "activations": "activations",
    "gathered": "gathered weights, travelling gradients",
    "head": "head",
    "workspace": "inside the head's kernel",
    "terms": "terms",
    "statistics": "statistics",
    "runtime": "libraries",
}
Bandwidths = dict[str, float]  # "data" and "tensor": bytes a second that a device sends


def size_text(size: float) -> str:
    """Write a number of bytes in GiB, or in MiB where it is less than one.

    >>> size_text(3 << 30), size_text(5 << 20)
    ('3.00 GiB', '5.0 MiB')
    """
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def _name(plan: DevicePlan) -> str:
    chosen = plan.settings
    words = [f"LoRA {chosen.lora}" if chosen.lora else "all weights"]
    recomputed, layers = plan.memory.recompute, plan.memory.layers
    words.append("every layer recomputed" if recomputed == layers else f"{recomputed} recomputed")
    return ", ".join(words)


def plan_blocks(
    name: str,
    plans: Sequence[DevicePlan],
    memory: int | None,
    bandwidths: Bandwidths,
    fixes: Sequence[tuple[str, DevicePlan]] = (),
) -> list[Block]:
    """Lay plans out for a terminal, the one asked for first, and what would make it fit.

    ``bandwidths``: bytes a second a device sends, over ``data`` and over ``tensor``.
    """
    first = plans[0]
    chosen = first.settings
    devices = f"{chosen.gpus} GPUs" if chosen.gpus > 1 else "one GPU"
    devices = devices if chosen.gpus else "this machine's CPU"
    layout = "" if chosen.parallel == "none" else f" under {chosen.parallel}"
    layout += f", {chosen.tensor} sharing every layer" if chosen.tensor > 1 else ""
    blocks: list[Block] = [
        Paragraph(
            f"{name}, {first.parameters:,} parameters in {chosen.dtype}, {chosen.optimizer}, on "
            f"{devices}{layout}: a step of {chosen.batch_size} blocks of {chosen.block_size} "
            f"tokens, {chosen.blocks} on each device in {first.memory.micro_batches} micro-batches."
        )
    ]
    rows: list[list[Cell]] = []
    for key, text in _PARTS.items():
        sizes = [getattr(plan.memory, key) for plan in plans]
        if any(sizes):
            rows.append([Cell(text), *(Cell(size_text(size)) for size in sizes)])
    reserved = f"with {100 * (RESERVE - 1):.0f} % in reserve"
    rows.append([Cell("peak"), *(Cell(size_text(plan.memory.peak)) for plan in plans)])
    rows.append(
        [
            Cell(reserved),
            *(Cell(size_text(p.needed)) for p in plans),
        ]
    )
    if memory is not None:
        said = ["yes" if plan.needed <= memory else "no" for plan in plans]
        rows.append([Cell(f"fits {size_text(memory)}"), *map(Cell, said)])
    columns = [Column("per device"), *(Column(_name(plan)) for plan in plans)]
    blocks.append(Table(columns, rows, caption="Memory of a device"))
    if first.traffic:
        blocks.append(_traffic(first, bandwidths))
    if fixes:
        blocks.append(_fixes(fixes, memory or 0))
    elif memory is not None:
        fits = first.needed <= memory
        blocks.append(Paragraph("It fits." if fits else "It does not fit."))
    return blocks


def _traffic(plan: DevicePlan, bandwidths: Bandwidths) -> Table:
    rows = []
    for over in ("data", "tensor"):
        for message, (size, calls) in plan.traffic.items():
            if message.over == over:
                what = f"{message.collective} over {message.devices} ({over})"
                rows.append(
                    [Cell(what), Cell(f"{round(calls):,}"), Cell(size_text(size)), Cell("")]
                )
        if sent := plan.sent(over):
            rate = f"{bandwidths[over] / 1e9:g} GB/s"
            took = time_text(sent / bandwidths[over])
            rows.append(
                [Cell(f"sent, {over}, at {rate}"), Cell(""), Cell(size_text(sent)), Cell(took)]
            )
    columns = [Column("per step and device"), Column("calls"), Column("bytes"), Column("time")]
    return Table(columns, rows, caption="Traffic")


def _fixes(fixes: Sequence[tuple[str, DevicePlan]], memory: int) -> Items:
    texts = []
    for words, plan in fixes:
        fits = "fits" if plan.needed <= memory else "does not fit yet"
        texts.append(f"{words}: {size_text(plan.needed)}, {fits}")
    return Items(["It does not fit. Each on top of the ones before:", *texts])
