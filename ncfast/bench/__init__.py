"""What each op takes on this machine, beside its bound and beside what others make of it."""

from __future__ import annotations

from .job import OPS, BenchSettings, bench
from .report import bench_blocks, write_bench

__all__ = ["OPS", "BenchSettings", "bench", "bench_blocks", "write_bench"]
