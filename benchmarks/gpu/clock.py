"""Times calls: by CUDA events with a cleared L2 cache; on a CPU by the clock, to try plumbing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

__all__ = ["Clock"]

FLUSH_BYTES = 256 << 20  # past the L2 cache of every GPU that is predicted


class Clock:
    """Time calls on one device."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.scratch = (
            torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device) if self.cuda else None
        )

    def once(self, call: Callable[[], object]) -> float:
        """Return the seconds of one call."""
        if self.scratch is None:
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        self.scratch.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    def times(self, call: Callable[[], object], repeats: int, seconds: float) -> list[float]:
        """Return the seconds of some calls after two that warm up, fewer where time is short."""
        deadline = time.monotonic() + seconds
        call()
        taken = [self.once(call)]
        if taken[0] > seconds / 3:
            return taken
        taken = []
        while len(taken) < repeats and (not taken or time.monotonic() < deadline):
            taken.append(self.once(call))
        return taken

    def median(self, call: Callable[[], object], repeats: int) -> float:
        """Return the median seconds of some calls after a first."""
        call()
        return statistics.median(self.once(call) for _ in range(repeats))
