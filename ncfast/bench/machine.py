"""What this machine can do at best, and what it is: measured in the same run as the ops."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = [
    "Machine",
    "Probes",
    "cache_bytes",
    "commit",
    "cores",
    "cpu_model",
    "measure_machine",
    "seconds",
]

_LEAST_COPY_BYTES, _MOST_COPY_BYTES = 256 << 20, 512 << 20
_PRODUCT = 2_048


@dataclass(frozen=True)
class Machine:
    """Hold the ceilings at one thread count.

    ``bandwidth`` counts the bytes that a large copy reads and writes in a second; ``flops`` are
    float32 operations a second of a 2048 x 2048 x 2048 product.
    """

    threads: int
    bandwidth: float
    flops: float

    def floor_seconds(self, moved_bytes: float, flops: float) -> float:
        """Return the least time for this much memory traffic and arithmetic."""
        return max(moved_bytes / self.bandwidth, flops / self.flops)

    def limit(self, moved_bytes: float, flops: float) -> str:
        """Return what the floor comes from: ``bytes`` or ``FLOP``."""
        return "bytes" if moved_bytes / self.bandwidth >= flops / self.flops else "FLOP"

    def better_of(self, other: Machine) -> Machine:
        """Return the higher of two measurements of each ceiling."""
        return Machine(
            self.threads,
            max(self.bandwidth, other.bandwidth),
            max(self.flops, other.flops),
        )


def seconds(function: Callable[[], object]) -> float:
    """Return how long one call took."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def cache_bytes() -> int:
    """Return the size of the largest cache, 0 where the system does not tell."""
    largest = 0
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
        largest = max(largest, int(text.rstrip("KMG")) * factor)
    return largest


class Probes:
    """Hold a large copy and a large product, whose times are a machine's ceilings.

    What a virtual machine's cores reach changes while it runs: one copy took 47 GB/s, the next 80.
    So ``calls`` are to be timed in turns with what they are to bound.
    """

    def __init__(self) -> None:
        # Past the cache, where a virtual machine does not claim its host's whole cache.
        size = max(_LEAST_COPY_BYTES, min(cache_bytes(), _MOST_COPY_BYTES))
        source = torch.ones(size // 4)
        target = torch.zeros_like(source)
        a, out = torch.randn(_PRODUCT, _PRODUCT), torch.zeros(_PRODUCT, _PRODUCT)
        self.bytes, self.flops = 2 * size, 2 * _PRODUCT**3
        self.calls: dict[str, Callable[[], object]] = {
            "copy": lambda: target.copy_(source),
            "product": lambda: torch.mm(a, a, out=out),
        }

    def machine(self, threads: int, copy_seconds: float, product_seconds: float) -> Machine:
        """Return the machine on which the calls took this long."""
        return Machine(threads, self.bytes / copy_seconds, self.flops / product_seconds)


def measure_machine(threads: int, repeats: int = 7) -> Machine:
    """Measure copy bandwidth and sgemm rate at a thread count; medians, after one call each."""
    torch.set_num_threads(threads)
    probes = Probes()
    times = []
    for call in probes.calls.values():
        call()
        times.append(statistics.median(seconds(call) for _ in range(repeats)))
    return probes.machine(threads, *times)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """Return the processor's name and the vector unit torch uses."""
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def commit() -> str:
    """Return the commit of these sources, ``-dirty`` where they differ, or ``unknown``."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists() or not (here / "setup.py").exists():
        return "unknown"  # an installed package may lie in somebody else's repository
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
