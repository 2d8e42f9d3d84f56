"""The phases of a GPU run, each in a process with a time limit of its own; none hides another."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

from . import build, sanitize, summary
from .processes import ROOT, Ended, run_all
from .settings import Settings, append

__all__ = ["PHASES", "WHOLE_SECONDS", "Phase", "run"]

WHOLE_SECONDS = 535.0  # nine minutes, less the start and the end
DRY_SECONDS = 600.0  # of each phase: busy cores prove nothing, and only a standstill is ended


@dataclass(frozen=True)
class Phase:
    """Name a module of this folder, what it does, and how long it may take."""

    name: str
    module: str
    about: str
    seconds: float


PHASES = (
    Phase("build", "build", "the CUDA library is compiled and linked", 120),
    Phase("ceilings", "ceilings", "copy and matrix product", 25),
    Phase("tests", "suite", "pytest -m gpu", 130),
    Phase("repeat", "repeat", "every op twice for the same bits, and in a CUDA graph", 80),
    Phase("sanitize", "sanitize", "compute-sanitizer memcheck at the smallest size", 40),
    Phase("times", "timing", "every op at the four heads, and its peers", 135),
)
assert sum(phase.seconds for phase in PHASES) <= WHOLE_SECONDS


def environment(settings: Settings) -> dict[str, str]:
    """Return the variables of every phase."""
    found = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    if settings.dry_run:
        found |= {"TRITON_INTERPRET": "1", build.HOST_LIBRARY: str(build.host_library())}
    return found


def machine() -> str:
    """Return when, where and with what this runs, in one line."""
    import torch  # here, because the phases must not wait for it

    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        device = f"{torch.cuda.get_device_name()} (sm_{major}{minor})"
    else:
        device = f"no GPU ({platform.machine()} CPU)"
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = "none"
    return (
        f"{time.strftime('%Y-%m-%d')}; {device}; torch {torch.__version__} "
        f"(CUDA {torch.version.cuda}); triton {triton}; Python {platform.python_version()}"
    )


def outcome_of(end: Ended) -> str:
    """Return how a phase ended, in a word or two."""
    return "left out" if end.code == sanitize.LEFT_OUT_EXIT else end.outcome


def run(out: Path, dry_run: bool, only: tuple[str, ...] = ()) -> int:
    """Run the phases in order and write a summary; 1 where one failed or ran out of time."""
    out.mkdir(parents=True, exist_ok=True)
    if list(out.iterdir()):
        raise SystemExit(f"benchmarks.gpu: --out {out} is not empty; expected a new folder")
    settings = Settings(out, dry_run, WHOLE_SECONDS)
    (out / "machine.txt").write_text(machine() + "\n", encoding="utf-8")
    good = True
    for phase in PHASES:
        if only and phase.name not in only:
            continue
        limit = DRY_SECONDS if dry_run else min(phase.seconds, settings.left)
        command = settings.command(phase.module, seconds=limit)
        end = run_all(
            {phase.name: command},
            seconds=limit,
            logs=out / "logs",
            environment=environment(settings),
        )[phase.name]
        row = {"phase": phase.name, "outcome": outcome_of(end), "seconds": f"{end.seconds:.1f}"}
        append(out / "phases.csv", {**row, "limit": f"{limit:.0f}", "about": phase.about})
        good = good and row["outcome"] in ("passed", "left out")
        print(f"{phase.name:10} {row['outcome']}, {end.seconds:.0f} s", flush=True)
        if row["outcome"] != "passed":
            print(end.tail, flush=True)
        (out / "summary.md").write_text(summary.render(out, dry_run), encoding="utf-8")
    print(f"summary: {out / 'summary.md'}; {time.monotonic() - settings.started:.0f} s in all")
    return 0 if good else 1
