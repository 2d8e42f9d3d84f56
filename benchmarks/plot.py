"""``python -m benchmarks.plot``: draw time over floor, per op and provider, from a stored run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .run import RESULTS
from .table import Measurement, load

__all__ = ["draw", "main"]

# Few bars: who is drawn, in which order, under which name and in which colour.
_DRAWN = {
    "cpu": ("ncfast", "#1b6ca8"),
    "torch": ("plain torch", "#f2a541"),
    "predecessor": ("predecessor's algorithm", "#a8a8a8"),
}
_BAR, _BETWEEN = 0.27, 0.3  # inches a bar and the space between ops take


def _groups(rows: Sequence[Measurement], threads: int) -> dict[str, list[Measurement]]:
    """Return the float32 rows to draw by what stands beside them, providers in drawing order."""
    chosen = [
        row
        for row in rows
        if (row.threads, row.dtype) == (threads, "float32") and row.provider in _DRAWN
    ]
    groups: dict[str, list[Measurement]] = {}
    for row in chosen:
        groups.setdefault(f"{row.op.replace(' and ', ' + ')}\n{row.size}", []).append(row)
    order = list(_DRAWN)
    return {
        label: sorted(group, key=lambda row: order.index(row.provider))
        for label, group in groups.items()
        if any(row.provider == "cpu" for row in group)
    }


def draw(rows: Sequence[Measurement], path: Path, threads: int) -> None:
    """Draw one group of bars per op, if any is stored; the floor is the line at 1."""
    import matplotlib

    groups = _groups(rows, threads)
    if not groups:
        raise ValueError(f"no float32 row of ncfast's cpu at {threads} threads is stored")
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "ncfast"  # the same file for the same numbers
    from matplotlib import pyplot

    bars = sum(map(len, groups.values()))
    figure, axes = pyplot.subplots(figsize=(9, _BAR * bars + _BETWEEN * len(groups) + 0.9))
    ticks = _bars(axes, list(groups.values()))
    axes.axvline(1, color="black", linestyle="--", linewidth=1)
    axes.set_xscale("log")
    gaps = [row.gap for group in groups.values() for row in group]
    axes.set_xlim(min(0.7, 0.8 * min(gaps)), max(gaps) * 5)  # room for the last text
    axes.set_yticks(ticks, list(groups), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(
        f"time / hardware floor, {threads} thread{'s' * (threads > 1)} "
        "(dashed: the floor of this machine's memory or arithmetic)"
    )
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncol=3, frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure)


def _bars(axes: Any, groups: Sequence[Sequence[Measurement]]) -> list[float]:
    """Draw the bars, first of a provider named for the legend; return the middle of each group."""
    position, ticks, named = 0.0, [], set()
    for group in groups:
        ticks.append(position + _BAR * (len(group) - 1) / 2)
        for row in group:
            label, colour = _DRAWN[row.provider]
            shown = None if label in named else label
            axes.barh(position, row.gap, height=0.85 * _BAR, color=colour, label=shown)
            text = f"{row.gap:.3g}x  ({_duration(row.median_ms)})"
            axes.text(row.gap * 1.06, position, text, va="center", fontsize=8)
            named.add(label)
            position += _BAR
        position += _BETWEEN
    return ticks


def _duration(milliseconds: float) -> str:
    return f"{milliseconds / 1e3:.3g} s" if milliseconds >= 1e3 else f"{milliseconds:.3g} ms"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    try:
        draw(load(options.results, Measurement), options.results / "gap.svg", options.threads)
    except ValueError as error:
        parser.error(str(error))
    print(options.results / "gap.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
