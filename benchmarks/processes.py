"""``python -m benchmarks.processes``: two processes of one thread, and one of two threads.

The same ``ncfast measure`` is run both ways by turns, as a user types it, and the fastest of each
is taken: of the pass over the text by its own clock, and of the whole command. Their reports are
compared. Two quiet cores are needed; with SmolLM2 a round takes about three minutes.
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
    """Return how far two reports differ, and in which value; raise where counts do."""
    assert found["tokens"] == expected["tokens"], "the reports count other tokens"
    worst = (0.0, "")
    for name, whole in expected["sets"].items():
        for key, value in whole["metrics"].items():
            other = found["sets"][name]["metrics"][key]
            if value is None or key.endswith("_margin"):  # how far rounding lies from a cut
                continue
            gap = abs(other - value) / max(abs(value), 1e-30) if other is not None else math.inf
            worst = max(worst, (gap, f"{name}: {key}"))
    return worst


def main(arguments: list[str] | None = None) -> int:
    """Measure both ways by turns, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo:smollm2")
    parser.add_argument("--text", default="demo:text")
    parser.add_argument("--max-tokens", default="20000")
    parser.add_argument("--rounds", type=int, default=3)
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
    print("| seconds, least of", options.rounds, "|", " | ".join(WAYS), "| times as fast |")
    print("|---|--:|--:|--:|")
    for key, value in one.items():
        print(f"| {key} | {value:.2f} | {two[key]:.2f} | {value / two[key]:.2f} |")
    gap, where = furthest(*reversed(reports.values()))
    print(f"\nThe reports differ by {gap:.1e} at most ({where}).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
