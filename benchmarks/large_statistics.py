"""``python -m benchmarks.large_statistics``: statistics of 262,144 classes of width 4,096 in files.

Every class is met once, in batches of random classes; then the state is committed, opened again
(which reads every row and holds it to its checksum), and committed once more. The rows are 4.3 GB;
memory is what the process has mapped and allocated together, at most. Takes a few minutes and 9 GB
of disk. ``--metrics`` adds the metrics of 100,000 drawn pairs, which take ten minutes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ncfast import ClassStatistics, neural_collapse
from ncfast.bench.machine import seconds

from .large import peak_memory, write
from .run import RESULTS

BATCH = 4_096
GOAL = 4.0  # GB


def fill(stats: ClassStatistics) -> None:
    """Meet every class once, in random order."""
    generator = torch.Generator().manual_seed(0)
    for classes in torch.randperm(stats.num_classes, generator=generator).split(BATCH):
        stats.update(torch.randn(classes.numel(), stats.dim, generator=generator), classes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_statistics")
    parser.add_argument("--classes", type=int, default=262_144)
    parser.add_argument("--width", type=int, default=4_096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--metrics", action="store_true", help="of 100,000 drawn pairs, too")
    parser.add_argument("--folder", type=Path, help="where the rows are written, and removed")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        place = Path(folder) / "statistics"
        settings = {"num_classes": options.classes, "dim": options.width, "scatter": False}
        before = peak_memory()
        stats = ClassStatistics(**settings, storage=place)
        filled = seconds(lambda: fill(stats))
        committed = seconds(stats.commit)
        del stats
        begun = time.perf_counter()
        stats = ClassStatistics.load(place)
        opened = time.perf_counter() - begun
        assert stats.tokens == options.classes
        lines = [
            f"V={options.classes:,} D={options.width:,} float32 rows in files, "
            f"{4e-9 * options.classes * options.width:.2f} GB, {options.threads} threads",
            f"every class once in batches of {BATCH:,}, features drawn: {filled:.1f} s; "
            f"commit {committed:.1f} s; opened again, every row checked: {opened:.1f} s",
            f"most memory of the process, what it maps included: {peak_memory():.2f} GB "
            f"(goal {GOAL:g} GB), {before:.2f} before the state",
        ]
        if options.metrics:
            taken = seconds(lambda: neural_collapse(stats, pairs=100_000))
            lines.append(f"metrics of 100,000 drawn pairs: {taken:.1f} s, {peak_memory():.2f} GB")
        write(options.out / "large_statistics.md", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
