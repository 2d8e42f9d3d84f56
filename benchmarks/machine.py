"""What this machine can do at best: copy bandwidth and sgemm rate, measured in the same run."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

COPY_BYTES = 256 << 20
GEMM_SIZE = 2048


@dataclass(frozen=True)
class Machine:
    """Hold the ceilings at one thread count.

    ``bandwidth`` counts bytes read plus bytes written per second by one large copy; ``flops`` are
    float32 operations per second of a 2048 x 2048 x 2048 product.
    """

    threads: int
    bandwidth: float
    flops: float

    def floor_seconds(self, moved_bytes: float, flops: float) -> float:
        """Return the least time for this much memory traffic and arithmetic."""
        return max(moved_bytes / self.bandwidth, flops / self.flops)


def median_seconds(function: Callable[[], object], repeats: int) -> list[float]:
    """Return the sorted times of some calls, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return sorted(times)


def measure_machine(threads: int, repeats: int = 7) -> Machine:
    """Measure copy bandwidth and sgemm rate at a thread count."""
    torch.set_num_threads(threads)
    source = torch.ones(COPY_BYTES // 4)
    target = torch.empty_like(source)
    copy = statistics.median(median_seconds(lambda: target.copy_(source), repeats))
    a = torch.randn(GEMM_SIZE, GEMM_SIZE)
    out = torch.empty_like(a)
    gemm = statistics.median(median_seconds(lambda: torch.mm(a, a, out=out), repeats))
    return Machine(threads, 2 * COPY_BYTES / copy, 2 * GEMM_SIZE**3 / gemm)


def cpu_model() -> str:
    """Return the processor's name and its best vector unit."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"
