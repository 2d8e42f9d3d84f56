"""``python -m benchmarks.plot``: draw time over floor, per op and provider, from a stored run."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from .run import RESULTS


def draw(rows: Sequence[dict[str, str]], path: Path, threads: str) -> None:
    """Draw one group of bars per op; the floor is the line at 1."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "ncfast"  # the same file for the same numbers
    from matplotlib import pyplot

    rows = [row for row in rows if row["threads"] == threads]
    labels = list(dict.fromkeys((row["op"], row["size"].rsplit(" ", 1)[1]) for row in rows))
    names = list(dict.fromkeys(row["provider"] for row in rows))
    figure, axes = pyplot.subplots(figsize=(9, 0.42 * len(rows) + 1.6))
    colours = {name: f"C{number}" for number, name in enumerate(names)}
    position, ticks = 0.0, []
    for op, dtype in labels:
        group = [r for r in rows if r["op"] == op and r["size"].endswith(dtype)]
        ticks.append((position + (len(group) - 1) / 2, f"{op}\n{dtype}"))
        for row in group:
            gap = float(row["gap"])
            axes.barh(position, gap, color=colours[row["provider"]])
            axes.text(gap * 1.05, position, f"{gap:.1f}x", va="center", fontsize=8)
            position += 1
        position += 0.8
    axes.axvline(1, color="black", linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks([at for at, _ in ticks], [text for _, text in ticks], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("time / floor (dashed: the floor of this machine's memory or arithmetic)")
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colours[name]) for name in names]
    axes.legend(handles, names, fontsize=8, loc="lower right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--threads", default="2")
    options = parser.parse_args(arguments)
    with open(options.results / "results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    draw(rows, options.results / "gap.svg", options.threads)
    print(options.results / "gap.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
