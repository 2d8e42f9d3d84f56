"""Times and memory of all who do one op, taken in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .contract import Prepared
from .machine import seconds
from .memory import peak_extra_bytes

__all__ = ["Taken", "interleaved", "least", "quartiles", "take"]

# A call that takes longer is timed once: its first time is its only one.
PATIENCE_SECONDS = 5.0


@dataclass(frozen=True)
class Taken:
    """Hold what was measured of one provider: seconds of the whole work, and bytes."""

    times: list[float]
    extra: int | None
    note: str


def interleaved(
    ready: Mapping[str, Prepared], repeats: int, first: Mapping[str, float] | None = None
) -> dict[str, list[float]]:
    """Time providers in turns, so that what else the machine does falls on all of them alike.

    ``first`` are seconds of a first call of each, where the caller made one.
    """
    if first is None:
        first = {name: seconds(made.call) for name, made in ready.items()}  # memory is touched now
    slow = {name for name, taken in first.items() if taken > PATIENCE_SECONDS}
    times: dict[str, list[float]] = {n: [first[n]] if n in slow else [] for n in ready}
    for _ in range(repeats):
        for name in [n for n in ready if n not in slow]:
            times[name].append(seconds(ready[name].call))
    return {name: [t * ready[name].scale for t in taken] for name, taken in times.items()}


def take(
    ready: Mapping[str, Prepared], repeats: int, first: Mapping[str, float] | None = None
) -> dict[str, Taken]:
    """Measure times and memory of all providers of one case; see :func:`interleaved`."""
    times = interleaved(ready, repeats, first)
    return {
        name: Taken(times[name], peak_extra_bytes(made.call), made.note)
        for name, made in ready.items()
    }


def least(
    calls: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the least seconds of each call, taken in turns."""
    found = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            start = clock()
            call()
            found[name] = min(found[name], clock() - start)
    return found


def quartiles(times: list[float]) -> list[float]:
    """Return lower quartile, median and upper quartile; one time is all three."""
    if len(times) == 1:
        return times * 3
    return statistics.quantiles(times, n=4, method="inclusive")
