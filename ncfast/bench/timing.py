"""Times and memory of all who do one op, taken in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .contract import Prepared
from .machine import Machine, Probes, seconds
from .memory import peak_extra_bytes

__all__ = ["Taken", "interleaved", "least", "quartiles", "take", "take_beside"]

# A call that takes longer is timed once: its first time is its only one.
PATIENCE_SECONDS = 5.0


@dataclass(frozen=True)
class Taken:
    """Hold what was measured of one provider: seconds of the whole work, and bytes."""

    times: list[float]
    extra: int | None
    note: str


def interleaved(
    ready: Mapping[str, Prepared],
    repeats: int,
    first: Mapping[str, float] | None = None,
    between: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Time providers in turns, so that what else the machine does falls on all of them alike.

    Whoever is timed follows another one, the last of all before the first in each turn: caches hold
    what the op works on, and nobody warms them for the others.

    ``first`` are seconds of a first call of each, where the caller made one; ``between`` is called
    between turns.
    """
    if first is None:
        first = {name: seconds(made.call) for name, made in ready.items()}  # memory is touched now
    slow = {name for name, taken in first.items() if taken > PATIENCE_SECONDS}
    times: dict[str, list[float]] = {n: [first[n]] if n in slow else [] for n in ready}
    quick = [name for name in ready if name not in slow]
    for _ in range(repeats):
        between()
        for name in quick[-1:]:
            ready[name].call()
        for name in quick:
            times[name].append(seconds(ready[name].call))
    return {name: [t * ready[name].scale for t in taken] for name, taken in times.items()}


def take(
    ready: Mapping[str, Prepared], repeats: int, first: Mapping[str, float] | None = None
) -> dict[str, Taken]:
    """Measure times and memory of all providers of one case; see :func:`interleaved`."""
    return _with_memory(ready, interleaved(ready, repeats, first))


def take_beside(
    probes: Probes, threads: int, ready: Mapping[str, Prepared], repeats: int
) -> tuple[dict[str, Taken], Machine, float]:
    """Measure providers, and in turns with them the machine.

    Returns:
        What was measured of each; the machine by the medians of its probes; and how far the upper
        and the lower quartile of a probe differ, as a fraction of the upper one.
    """
    for call in probes.calls.values():
        call()  # memory is touched now
    beside: dict[str, list[float]] = {name: [] for name in probes.calls}

    def probe() -> None:
        for name, call in probes.calls.items():
            beside[name].append(seconds(call))

    times = interleaved(ready, repeats, between=probe)
    spread = [quartiles(taken) for taken in beside.values()]
    machine = probes.machine(threads, *(middle for _, middle, _ in spread))
    return _with_memory(ready, times), machine, max(1 - low / high for low, _, high in spread)


def _with_memory(
    ready: Mapping[str, Prepared], times: Mapping[str, list[float]]
) -> dict[str, Taken]:
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
