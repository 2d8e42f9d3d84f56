"""``python -m benchmarks.scaling``: how time and memory grow with N, V, D, threads and ranks.

Each op is swept along one axis at a time beside its bound and plain torch; then pairs are drawn in
growing number, and their error is set against their time. Nobody is timed who fails the gate at
this commit; what would not fit ``--minutes`` is left out, and named. The rows go to scaling.csv,
from which ``scaling.md`` and its figures are drawn (``scaling_figures``).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import distributed

from ncfast import ClassStatistics
from ncfast.bench import bounds
from ncfast.bench.contract import Absent, Inputs
from ncfast.bench.machine import Machine, cores, measure_machine, seconds
from ncfast.bench.timing import take
from ncfast.metrics.pair_functions import PairFunction, Plan
from ncfast.metrics.pairs import Pairs

from . import gate
from .cases import LOSS, Case
from .providers import prepare
from .run import RESULTS, described

__all__ = ["Point", "load", "main", "measured", "sweeps"]

MOMENTS, PAIRS, WITHIN = "accumulate_class_moments_", "pair_stats", "within_class_scatter"
PROVIDERS = ("cpu", "torch")
REPEATS = 3
SLACK = 6  # how many times its bound a call may take, when it is asked whether it fits the time
MOST_LOGITS = 1 << 28  # plain torch keeps them three times: 3 GiB


@dataclass(frozen=True)
class Point:
    """Hold one row; ``error`` is of drawn pairs, relative to all of them, memory in MiB."""

    axis: str
    op: str
    provider: str
    value: int
    size: str
    threads: int
    seconds: float
    bound_seconds: float
    run: str
    ranks: int = 1
    extra_mib: float | None = None
    error: float | None = None
    gate: str = "passed"


@dataclass(frozen=True)
class Sweep:
    """Hold one axis of one op: the sizes (N, D, V) and threads, and which of them grows."""

    axis: str
    op: str
    bound: Callable[[bounds.Size], bounds.Bound]
    sizes: Sequence[tuple[int, int, int]]
    threads: Sequence[int]

    def points(self) -> Iterator[tuple[int, Case, int]]:
        """Return the value on the axis, what is timed, and on how many threads."""
        place = {"tokens": 0, "width": 1, "classes": 2}
        for size, threads in itertools.product(self.sizes, self.threads):
            value = threads if self.axis == "threads" else size[place[self.axis]]
            left_out = ("torch",) if self.op == LOSS and size[0] * size[2] > MOST_LOGITS else ()
            case = (self.op, *size, torch.float32, None, self.bound)
            yield value, Case(*case, left_out=left_out), threads


def sweeps(most: int, small: bool = False) -> list[Sweep]:
    """Return what is swept, on at most so many threads; sizes of seconds, or tiny ones."""

    def growing(low: int, high: int) -> list[int]:
        values = [low]
        while values[-1] * 4 <= high:
            values.append(values[-1] * 4)
        return values if values[-1] == high else [*values, high]

    n = [64, 256] if small else growing(1_024, 65_536)
    v = [64, 256] if small else growing(1_024, 262_144)
    d = [16, 64] if small else growing(128, 8_192)
    tokens, width, classes = (128, 16, 64) if small else (1_024, 256, 4_096)
    counts = sorted({1, most})
    loss, moments = bounds.linear_cross_entropy, bounds.accumulate_class_moments_
    pairs, within, deep = bounds.pair_stats, bounds.within_class_scatter, [max(counts)]
    return [
        Sweep("tokens", LOSS, loss, [(x, width, classes) for x in n], deep),
        Sweep("tokens", MOMENTS, moments, [(x, width, classes) for x in n], deep),
        Sweep("classes", LOSS, loss, [(tokens, width, x) for x in v], deep),
        Sweep("classes", MOMENTS, moments, [(4 * tokens, width, x) for x in v], deep),
        Sweep("width", LOSS, loss, [(tokens, x, classes) for x in d], deep),
        Sweep("width", MOMENTS, moments, [(4 * tokens, x, classes) for x in d], deep),
        Sweep("width", WITHIN, within, [(tokens, x, classes) for x in d], deep),
        Sweep("width", PAIRS, pairs, [(0, x, classes) for x in d], deep),
        Sweep("threads", LOSS, loss, [(4 * tokens, width, classes)], counts),
        Sweep("threads", PAIRS, pairs, [(0, width, 4 * classes)], counts),
        # Last: its largest takes more than all others.
        Sweep("classes", PAIRS, pairs, [(0, width // 2, x) for x in v], deep),
    ]


class Budget:
    """Say whether something fits the time that is left."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes

    def fits(self, wanted: float) -> bool:
        """Return whether so many seconds are left."""
        return time.monotonic() + wanted <= self.end


def measured(
    sweep: Sweep, machines: dict[int, Machine], budget: Budget, run: str, say: Callable[[str], None]
) -> list[Point]:
    """Time every point of a sweep that fits, by whom the gate lets through."""
    found = []
    for value, case, threads in sweep.points():
        torch.set_num_threads(threads)
        inputs = case.inputs()
        bound = case.bound(case.size(inputs))
        floor = machines[threads].floor_seconds(bound.bytes, bound.flops)
        if not budget.fits(SLACK * floor * (REPEATS + 2)):
            say(f"left out, {case.title}: would take too long")
            continue
        ready = {}
        for name in PROVIDERS:
            try:
                gate.check(name, case)
                ready[name] = prepare(name, case.name, inputs)
            except (Absent, AssertionError) as error:
                say(f"left out, {case.title}: {name} {error}")
        for name, taken in take(ready, REPEATS).items():
            extra = None if taken.extra is None else round(taken.extra / 2**20, 2)
            place = (sweep.axis, sweep.op, name, value, case.shape, threads)
            found.append(Point(*place, min(taken.times), floor, run, extra_mib=extra))
    return found


def of_ranks(
    counts: Sequence[int], size: tuple[int, int, int], machine: Machine, run: str
) -> list[Point]:
    """Time statistics of the same tokens shared by ranks of one thread, and their merging.

    Raises:
        AssertionError: the ranks' state is not that of one process.
    """
    tokens, width, classes = size
    bound = bounds.accumulate_class_moments_(bounds.Size(tokens, width, classes, classes, 4))
    floor, found = machine.floor_seconds(bound.bytes, bound.flops), []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            arguments = (count, size, folder)
            torch.multiprocessing.spawn(_rank, arguments, nprocs=count)
            taken = float((Path(folder) / "seconds").read_text())
        shape = f"N={tokens:,} D={width} V={classes:,}"
        place = ("ranks", "ClassStatistics, all_reduce", "cpu", count, shape, 1)
        found.append(Point(*place, taken, floor / count, run, ranks=count))
    return found


def _rank(rank: int, count: int, size: tuple[int, int, int], folder: str) -> None:
    torch.set_num_threads(1)
    where = f"file://{folder}/meet"
    distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=count)
    inputs = Inputs(*size)
    x, y = inputs.x.chunk(count)[rank], inputs.y.chunk(count)[rank]

    def state() -> ClassStatistics:
        return ClassStatistics(inputs.classes, inputs.width, scatter=False)

    def shared() -> ClassStatistics:
        own = state()
        own.update(x, y)
        own.all_reduce()
        return own

    found, whole = shared(), state()
    whole.update(inputs.x, inputs.y)
    assert torch.equal(found.counts, whole.counts), "the ranks counted other tokens"
    torch.testing.assert_close(found.means, whole.means)
    times = []
    for _ in range(REPEATS):
        distributed.barrier()
        times.append(seconds(lambda: (shared(), distributed.barrier())))
    if rank == 0:
        (Path(folder) / "seconds").write_text(str(min(times)))
    distributed.destroy_process_group()


def of_drawn_pairs(
    classes: int, width: int, machine: Machine, budget: Budget, run: str
) -> list[Point]:
    """Draw pairs, four times as many each time; set their error against all pairs.

    Raises:
        AssertionError: an error is beyond six of the standard errors that its estimate states.
    """
    inputs, function = Inputs(0, width, classes), PairFunction("cdnv")
    # Means of unlike distances, as a model's are: of equal ones every sample is right.
    points = inputs.means * torch.linspace(0.2, 1.8, classes)[:, None]
    pairs = Pairs(points, torch.arange(classes), inputs.variances.double(), None)
    begun = time.perf_counter()
    (exact,) = pairs.go_through([function], Plan())
    every = time.perf_counter() - begun
    shape, found = f"D={width} V={classes:,}", []
    bound = bounds.pair_stats(bounds.Size(0, width, classes, 0, 4))
    floor = machine.floor_seconds(bound.bytes, bound.flops)
    place = ("drawn", "all pairs", "cpu", exact.pairs, shape, machine.threads)
    found.append(Point(*place, every, floor, run, error=0.0))
    drawn = 256
    while drawn * 4 <= exact.pairs and drawn < 4 << 20 and budget.fits(4 * every):
        drawn *= 4
        begun = time.perf_counter()
        (value,) = pairs.go_through([function], Plan(drawn=drawn))
        taken = time.perf_counter() - begun
        error = abs(value.mean - exact.mean)
        assert error <= 6 * value.estimates["mean"].error, (drawn, error, value.estimates["mean"])
        relative = value.estimates["mean"].error / abs(exact.mean)
        place = ("drawn", "drawn pairs", "cpu", drawn, shape, machine.threads)
        found.append(Point(*place, taken, floor, run, error=relative))
    return found


def load(path: Path) -> list[Point]:
    """Return the stored rows."""

    def read(row: dict[str, str]) -> Point:
        kinds = {"int": int, "float": float, "str": str}
        kinds["float | None"] = lambda text: float(text) if text else None  # type: ignore[assignment]
        return Point(**{f.name: kinds[str(f.type)](row[f.name]) for f in fields(Point)})

    with path.open(encoding="utf-8", newline="") as file:
        return [read(row) for row in csv.DictReader(file)]


def store(path: Path, points: Sequence[Point]) -> None:
    """Write rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Point)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(point) for point in points)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, store and draw."""
    from .scaling_figures import write

    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--threads", type=int, default=cores(), help="at most (all cores)")
    parser.add_argument("--small", action="store_true", help="sizes that prove nothing")
    parser.add_argument("--draw-only", action="store_true", help="figures of the stored rows")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if not options.draw_only:
        left_out: list[str] = []
        budget, most = Budget(options.minutes), options.threads
        machines = {t: measure_machine(t, 1 if options.small else 5) for t in sorted({1, most})}
        run = f"{described()}; load {os.getloadavg()[0]:.1f}"
        classes, width, tokens = (300, 16, 512) if options.small else (16_384, 256, 65_536)
        size = (tokens, width, classes)
        points = of_ranks(sorted({1, most}), size, machines[1], run)
        points += of_drawn_pairs(classes, width, machines[most], budget, run)
        for sweep in sweeps(most, options.small):
            points += measured(sweep, machines, budget, run, left_out.append)
            print(f"done: {sweep.op} along {sweep.axis}", file=sys.stderr, flush=True)
        store(options.out / "scaling.csv", points)
        (options.out / "scaling_left_out.txt").write_text("\n".join(left_out), encoding="utf-8")
    print(write(options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
