"""Figures and the page of ``benchmarks.scaling``, from its stored rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .scaling import Point, load

__all__ = ["write"]

AXES = {
    "tokens": "N, tokens",
    "classes": "V, classes",
    "width": "D, width",
    "threads": "threads",
    "ranks": "ranks of one thread",
}
COLOURS = {"cpu": ("ncfast", "#1b6ca8"), "torch": ("plain torch", "#f2a541")}


def curve(axes: Any, points: Sequence[Point], memory: bool) -> None:
    """Draw one op along one axis, log-log: each provider's line, and the bound dashed."""
    for provider, (label, colour) in COLOURS.items():
        own = [p for p in points if p.provider == provider]
        shown = [(p.value, p.extra_mib if memory else 1e3 * p.seconds) for p in own]
        shown = [(value, max(y, 0.01)) for value, y in shown if y is not None]
        if shown:
            axes.plot(*zip(*shown, strict=True), "o-", color=colour, label=label, markersize=3)
    if not memory:
        bound = sorted({(p.value, 1e3 * p.bound_seconds) for p in points})
        axes.plot(*zip(*bound, strict=True), "--", color="black", linewidth=1, label="bound")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel(AXES[points[0].axis], fontsize=8)
    axes.tick_params(labelsize=7)


def draw(points: Sequence[Point], path: Path) -> None:
    """Draw a figure for an axis: a column for each op, time above memory."""
    from matplotlib import pyplot

    ops = list(dict.fromkeys(p.op for p in points))
    with_memory = any(p.extra_mib is not None for p in points)
    rows = 1 + with_memory
    size = (3.1 * len(ops), 2.4 * rows)
    figure, grid = pyplot.subplots(rows, len(ops), figsize=size, squeeze=False)
    for column, op in enumerate(ops):
        own = [p for p in points if p.op == op]
        for row in range(rows):
            curve(grid[row][column], own, memory=row == 1)
        grid[0][column].set_title(op.replace(" forward", "\nforward"), fontsize=8)
    grid[0][0].set_ylabel("ms", fontsize=8)
    if with_memory:
        grid[1][0].set_ylabel("MiB beside outputs", fontsize=8)
    grid[0][0].legend(fontsize=7, frameon=False)
    _save(figure, path)


def draw_drawn(points: Sequence[Point], path: Path) -> None:
    """Draw the error of drawn pairs against their time; the time of all pairs is dashed."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(4.6, 3))
    drawn = [p for p in points if p.op == "drawn pairs"]
    axes.plot(
        [p.seconds for p in drawn], [p.error or 0.0 for p in drawn], "o-", color=COLOURS["cpu"][1]
    )
    for p in drawn[:: max(1, len(drawn) // 3)]:
        axes.annotate(f"{p.value:,}", (p.seconds, p.error), fontsize=7)
    for p in points:
        if p.op == "all pairs":
            axes.axvline(p.seconds, color="black", linestyle="--", linewidth=1)
            axes.annotate(f"all {p.value:,}", (p.seconds, max(d.error or 0 for d in drawn)))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("seconds", fontsize=8)
    axes.set_ylabel("standard error / mean CDNV", fontsize=8)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def write(folder: Path) -> Path:
    """Draw every figure of the stored rows, and write the page; return it."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "ncfast"  # the same file for the same numbers
    points = load(folder / "scaling.csv")
    lines = [
        "# How it scales",
        "",
        "`python -m benchmarks.scaling`. Each axis grows alone, log-log; ",
    ]
    lines += [
        "the dashed line is the bound: bytes over this machine's copy bandwidth, or FLOP over its",
        "sgemm rate. Fastest of three; memory of one call beside what it returns. Whoever fails",
        "the gate (`benchmarks/gate.py`) is not timed. What torch does for class moments is",
        "`index_add_`: sums alone, where the op finds means, spreads and every NaN.",
        "",
        *(f"- {run}" for run in dict.fromkeys(p.run for p in points)),
        "",
    ]
    for axis, title in AXES.items():
        if own := [p for p in points if p.axis == axis]:
            draw(own, folder / f"scaling_{axis}.svg")
            lines += [
                f"## {title[0].upper()}{title[1:]}",
                "",
                f"![{title}](scaling_{axis}.svg)",
                "",
            ]
    drawn = [p for p in points if p.axis == "drawn"]
    if len(drawn) > 1:
        draw_drawn(drawn, folder / "scaling_drawn.svg")
        lines += [
            "## Drawn pairs: accuracy against time",
            "",
            f"Mean CDNV of {drawn[0].size}. Each lies within six standard errors of the mean of",
            "all pairs.",
            "",
            "![error against time](scaling_drawn.svg)",
            "",
        ]
    lines += ["## Numbers", "", "| axis | op | by | size | threads, ranks | s | over bound | MiB |"]
    lines.append("|---|---|---|---|--:|--:|--:|--:|")
    for p in points:
        memory = "" if p.extra_mib is None else f"{p.extra_mib:,.1f}"
        what = f"{p.op}, {p.value:,}" if p.axis == "drawn" else p.op
        lines.append(
            f"| {p.axis} | {what} | {p.provider} | {p.size} | {p.threads}, {p.ranks} | "
            f"{p.seconds:.3g} | {p.seconds / p.bound_seconds:.2f} | {memory} |"
        )
    left_out = folder / "scaling_left_out.txt"
    if left_out.exists() and (text := left_out.read_text(encoding="utf-8").strip()):
        lines += ["", "Not measured:", "", *(f"- {line}" for line in text.splitlines())]
    page = folder / "scaling.md"
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return page
