"""What every phase of a GPU run is told: where to write, for how long, and on what to run."""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..table import read_rows
from .heads import HEADS, TINY, Head

if TYPE_CHECKING:  # importing torch takes seconds, and phases that only start others need none
    import torch

__all__ = ["WITHOUT", "Settings", "append", "settings_of"]

WITHOUT = "NCFAST_GPU_WITHOUT"  # backends whose build has failed: said once, not by every test


@dataclass(frozen=True)
class Settings:
    """Hold what a phase needs; a dry run has a CPU, one tiny head and the emulating backends."""

    out: Path
    dry_run: bool
    seconds: float
    words: tuple[str, ...] = ()
    started: float = field(default_factory=time.monotonic)

    @property
    def device(self) -> torch.device:
        """Return where tensors live."""
        import torch

        return torch.device("cpu" if self.dry_run else "cuda")

    @property
    def backends(self) -> tuple[str, ...]:
        """Return the backends whose kernels are run."""
        found = ("triton-interpret", "cuda-host", "cpu") if self.dry_run else ("triton", "cuda")
        return tuple(name for name in found if name not in os.environ.get(WITHOUT, "").split())

    @property
    def heads(self) -> tuple[Head, ...]:
        """Return the heads whose sizes are run."""
        return TINY if self.dry_run else HEADS

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """Return the dtypes of features and heads."""
        import torch

        return (torch.float32,) if self.dry_run else (torch.bfloat16, torch.float32)

    @property
    def left(self) -> float:
        """Return the seconds that are left to this phase."""
        return self.seconds - (time.monotonic() - self.started)

    def kernels(self, op: str) -> list[str]:
        """Return the backends of the dispatch table that hold kernels of an op.

        A row for a kernel that is not written yet says so, and is left out. A row that refuses for
        any other reason stays: calling it fails, and that is the finding.
        """
        from ncfast import explain
        from ncfast.cli.doctor import sample_arguments

        # Not arguments that a forward has to be run for: a kernel that fails would hide the others.
        verdicts = explain(op, *sample_arguments(op, self.device.type))
        there = [v for v in verdicts if v.available and f"has no {op}" not in v.reason]
        return [v.backend for v in there if v.backend in self.backends]

    def ops(self) -> list[str]:
        """Return the ops that have kernels here, or those of them that the command line names."""
        from ncfast import dispatch

        known = [op for op in dispatch.ops() if self.kernels(op)]
        return [op for op in known if not self.words or op in self.words]

    def command(self, module: str, *more: str, seconds: float | None = None) -> list[str]:
        """Return the command of a phase, or of a part of one, with these settings."""
        words = [sys.executable, "-m", f"benchmarks.gpu.{module}", *more, "--out", str(self.out)]
        words += ["--seconds", f"{self.left if seconds is None else seconds:.0f}"]
        return [*words, "--dry-run"] if self.dry_run else words


def settings_of(arguments: Sequence[str] | None, about: str | None) -> Settings:
    """Read a phase's command line."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("ops", nargs="*", help="only these ops")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seconds", type=float, default=120.0, help="stop after this long")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, tiny sizes")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    return Settings(given.out, given.dry_run, given.seconds, tuple(given.ops))


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a CSV at once: what a phase has found outlives its being killed."""
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
        file.flush()
        os.fsync(file.fileno())


def read(paths: Iterable[Path]) -> list[dict[str, str]]:
    """Return the rows of CSV files that are there, one after the other."""
    return [row for path in paths for row in read_rows(path)]
