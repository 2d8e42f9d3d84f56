"""``python -m benchmarks.large``: every pair of 262,144 classes of width 2,048, from a mapped file.

A run of ten minutes or more on two cores, and so no part of ``benchmarks.run``: the points are read
from disk as the kernel visits them. First a sample of pairs is drawn, with the file out of the page
cache (``large_drawn.md``; two minutes, most of them to write the file; ``--drawn-only`` ends here),
then all pairs are visited (``large.md``).
"""

from __future__ import annotations

import argparse
import datetime
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import ncfast
import ncfast.functional as F
from ncfast.bench.machine import Machine, commit, cpu_model, measure_machine
from ncfast.mapped import reading_of
from ncfast.metrics.pair_functions import PairFunction, Plan
from ncfast.metrics.pairs import Pairs

from .run import RESULTS

KINDS = ("cdnv", "log_distance")
ROWS = 8_192  # written at a time


def mapped_points(path: Path, classes: int, width: int) -> Tensor:
    """Write random points [V, D] to a file, a part at a time, and return it mapped, unread."""
    generator = torch.Generator().manual_seed(0)
    with open(path, "wb") as file:
        for begin in range(0, classes, ROWS):
            rows = min(ROWS, classes - begin)
            torch.randn(rows, width, generator=generator).numpy().tofile(file)
        # Out of the page cache, so that what follows reads the disk.
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    whole = torch.from_file(str(path), shared=False, size=classes * width, dtype=torch.float32)
    return whole.view(classes, width)


def all_pairs(points: Tensor, variances: Tensor) -> tuple[Tensor, float]:
    """Visit every pair; return the sums and the seconds."""
    start = time.perf_counter()
    stats, _, _ = F.pair_stats(points, variances, "none", KINDS)
    return stats, time.perf_counter() - start


def drawn_pairs(points: Tensor, variances: Tensor, pairs: int) -> tuple[list[str], float]:
    """Estimate the same means from drawn pairs; return them in words, and the seconds."""
    words = [f"before the first {reading_of(points)}, by estimate"]
    start = time.perf_counter()
    sample = Pairs(points, torch.arange(points.shape[0]), variances.double(), None)
    values = sample.go_through([PairFunction(kind) for kind in KINDS], Plan(drawn=pairs))
    taken = time.perf_counter() - start
    words += [
        f"{kind} {value.mean:.9g} ± {value.estimates['mean'].error:.2g} (standard error)"
        for kind, value in zip(KINDS, values, strict=True)
    ]
    return words, taken


def peak_memory() -> float:
    """Return the GB that the process has held at most, what it maps included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def held(memory: float) -> str:
    """Say what the process has held at most."""
    return f"most memory of the process, what it maps included: {memory:.2f} GB (goal 6 GB)"


def write(path: Path, lines: Sequence[str], table: Sequence[str] = ()) -> None:
    """Write the findings under what they were found with, and a table below."""
    head = (
        f"{datetime.date.today()}, {cpu_model()}, torch {torch.__version__}, "
        f"ncfast {ncfast.__version__} at {commit()}."
    )
    listed = [f"- {line}" for line in lines]
    text = "\n".join([head, "", *listed, *(["", *table] if table else [])]) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=__doc__)
    parser.add_argument("--classes", type=int, default=262_144)
    parser.add_argument("--width", type=int, default=2_048)
    parser.add_argument("--pairs", type=int, default=1_000_000, help="pairs to draw")
    parser.add_argument("--drawn-only", action="store_true", help="do not visit all pairs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the points are written, and removed")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    classes, width = options.classes, options.width
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        points = mapped_points(Path(folder) / "points.f32", classes, width)
        variances = torch.rand(classes, generator=torch.Generator().manual_seed(1)) + 0.5
        what = f"V={classes:,} D={width:,} float32 from a mapped file, {options.threads} threads"
        torch.set_num_threads(options.threads)
        words, seconds = drawn_pairs(points, variances, options.pairs)
        found = f"{options.pairs:,} drawn pairs: {seconds:.1f} s (goal 60 s): {'; '.join(words)}"
        write(options.out / "large_drawn.md", [what, found, held(peak_memory())])
        if options.drawn_only:
            return 0
        machine: Machine = measure_machine(options.threads)
        stats, seconds = all_pairs(points, variances)
        machine = machine.better_of(measure_machine(options.threads))
    floor = machine.floor_seconds(4 * classes * width, classes**2 * width)
    means = (stats[:, 1] / stats[:, 0]).tolist()
    exact = "; ".join(f"{kind} {mean:.9g}" for kind, mean in zip(KINDS, means, strict=True))
    write(
        options.out / "large.md",
        [
            f"{what}, sgemm {machine.flops / 1e9:.0f} GFLOP/s",
            f"all {int(stats[0, 0]):,} pairs of {' and '.join(KINDS)}: {seconds:.1f} s, "
            f"{seconds / floor:.2f} times the floor of {floor:.1f} s (goal 1.5): {exact}",
            held(peak_memory()),
        ],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
