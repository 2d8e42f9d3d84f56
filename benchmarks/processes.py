"""``python -m benchmarks.processes``: two processes of one thread, and one of two threads.

The same ``ncfast measure`` is run both ways by turns, as a user types it, and the fastest of each
is taken: of the pass over the text by its own clock, and of the whole command. Their reports are
compared: counts have to be equal, numbers within 1e-5, or the command ends with 1. Two quiet cores
are needed; with SmolLM2 a round takes about three minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .large import write
from .run import RESULTS

MOST_GAP = 1e-5  # of float32 values, as a share of them
COUNTS = ("tokens", "classes_requested", "classes_present", "classes_seen_once")
WAYS = {
    "one process, two threads": ([sys.executable, "-m", "ncfast"], 2),
    "two processes, a thread each": (
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "ncfast"],
        1,
    ),
}


def measured(way: str, words: list[str], folder: Path) -> tuple[float, dict[str, Any]]:
    """Run a command; return the seconds it took and its report."""
    start, threads = WAYS[way]
    command = [*start, "measure", *words, "--threads", str(threads), "--quiet", "--force"]
    began = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run([*command, "--out", str(folder)], check=True, env=environment)
    took = time.perf_counter() - began
    return took, json.loads((folder / "report.json").read_text(encoding="utf-8"))


def furthest(found: dict[str, Any], expected: dict[str, Any]) -> tuple[float, str]:
    """Return how far the numbers of two reports differ, and in which; raise where counts do."""
    worst = (0.0, "")
    for name in ("tokens", "text"):
        _require_equal(found, expected, name)
    for name, whole in expected["sets"].items():
        other = found["sets"][name]
        for key in COUNTS:
            _require_equal(other, whole, key)
        for key, value in whole["metrics"].items():
            if not key.endswith("_margin"):  # how far rounding lies from a cut
                worst = max(worst, (_gap(other["metrics"][key], value), f"{name}: {key}"))
        for key, ends in (whole["intervals"] or {}).items():
            if key != "unc3_cov":  # a draw may bring the mean it is divided by near 0
                gaps = map(_gap, other["intervals"][key], ends)
                worst = max(worst, (max(gaps), f"{name}: interval of {key}"))
    return worst


def _require_equal(found: dict[str, Any], expected: dict[str, Any], key: str) -> None:
    if found[key] != expected[key]:
        raise SystemExit(f"the reports count {key} differently: {found[key]}, {expected[key]}")


def _gap(found: float | None, expected: float | None) -> float:
    """Return how far two values differ, as a share of the expected one; infinite if one lacks."""
    if found is None or expected is None:
        return 0.0 if found is expected else math.inf
    return abs(found - expected) / max(abs(expected), 1e-30)


def main(arguments: list[str] | None = None) -> int:
    """Measure both ways by turns, write what was found; 1 where the reports differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo:smollm2")
    parser.add_argument("--text", default="demo:text")
    parser.add_argument("--max-tokens", default="20000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    words = [options.model, options.text, "--max-tokens", options.max_tokens]
    best: dict[str, dict[str, float]] = {way: {} for way in WAYS}
    reports: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for way, least in best.items():
                took, report = measured(way, words, Path(folder) / str(len(way)))
                times = report["timing"]
                seconds = {
                    "whole command": took,
                    "pass": times["seconds"],
                    "metrics and intervals": times["metrics_seconds"] + times["bootstrap_seconds"],
                }
                for key, value in seconds.items():
                    least[key] = min(value, least.get(key, math.inf))
                reports[way] = report
    one, two = best.values()
    gap, where = furthest(*reversed(reports.values()))
    lines = [
        f"`ncfast measure {' '.join(words)}`, {options.rounds} rounds by turns, the least of each",
        f"counts are equal; numbers differ by {gap:.1e} of their size at most ({where})",
    ]
    table = ["| seconds | " + " | ".join(WAYS) + " | times as fast |", "|---|--:|--:|--:|"]
    for key, value in one.items():
        table.append(f"| {key} | {value:.2f} | {two[key]:.2f} | {value / two[key]:.2f} |")
    write(options.out / "processes.md", lines, table)
    return int(gap > MOST_GAP)


if __name__ == "__main__":
    sys.exit(main())
