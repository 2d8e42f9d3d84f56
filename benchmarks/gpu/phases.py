"""The phases of a GPU run, each in a process with a time limit of its own; none hides another."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from . import build, sanitize, summary
from .archive import pack
from .processes import ROOT, Ended, run_all
from .settings import WITHOUT, Settings, append

__all__ = ["PHASES", "WHOLE_SECONDS", "Phase", "run"]

WHOLE_SECONDS = 535.0  # nine minutes, less the start and the end
DRY_SECONDS = 600.0  # of each phase: busy cores prove nothing, and only a standstill is ended
MARGIN_SECONDS = 10.0  # of --minutes: starting, packing


@dataclass(frozen=True)
class Phase:
    """Name a module of this folder, what it does, and its share of the time.

    What a phase does not use goes to those after it.
    """

    name: str
    module: str
    about: str
    share: float


# What matters most comes first: it is there if the machine goes away.
PHASES = (
    Phase("build", "build", "the CUDA library is compiled for this card and linked", 120),
    Phase("tests", "suite", "pytest -m gpu: the contract of every op on both backends", 130),
    Phase("repeat", "repeat", "every op twice for the same bits, and in a CUDA graph", 80),
    Phase("ceilings", "ceilings", "copy and matrix product", 25),
    Phase("times", "timing", "every op at the four heads, and its peers", 135),
    Phase("sanitize", "sanitize", "memcheck, racecheck and initcheck at the smallest size", 40),
)


def limit_of(phase: Phase, left: float) -> float:
    """Return the seconds a phase may take of those that are left."""
    at = PHASES.index(phase) if phase in PHASES else 0
    return left * phase.share / sum(later.share for later in PHASES[at:])


def environment(settings: Settings, failed: set[str]) -> dict[str, str]:
    """Return the variables of every phase; what could not be built is left out of what follows."""
    found = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    if settings.dry_run:
        found |= {"TRITON_INTERPRET": "1", build.HOST_LIBRARY: str(build.host_library())}
    if "build" in failed:
        found[WITHOUT] = "cuda-host" if settings.dry_run else "cuda"
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


def run(
    out: Path,
    dry_run: bool,
    only: tuple[str, ...] = (),
    minutes: float = 0,
    archive: bool = False,
) -> int:
    """Run the phases in order and write a summary; 1 where one failed or ran out of time.

    ``only`` names phases, all where there are none. No ``minutes``: nine, less the start and the
    end. With ``archive``, ``out`` gets three files, and not one for every phase and op.
    """
    out.mkdir(parents=True, exist_ok=True)
    if list(out.iterdir()):
        raise SystemExit(f"benchmarks.gpu: --out {out} is not empty; expected a new folder")
    whole = minutes * 60 - MARGIN_SECONDS if minutes else WHOLE_SECONDS
    if not archive:
        return run_phases(out, dry_run, only, whole, None)
    with tempfile.TemporaryDirectory() as folder:
        return run_phases(Path(folder), dry_run, only, whole, out)


def run_phases(
    folder: Path, dry_run: bool, only: tuple[str, ...], whole: float, packed: Path | None
) -> int:
    """Run the phases in order; after each, ``packed`` holds what was found so far."""
    settings = Settings(folder, dry_run, whole)
    (folder / "machine.txt").write_text(machine() + "\n", encoding="utf-8")
    failed: set[str] = set()
    for phase in PHASES:
        if only and phase.name not in only:
            continue
        left = limit_of(phase, settings.left)
        limit = min(DRY_SECONDS, settings.left) if dry_run else left
        command = settings.command(phase.module, seconds=limit)
        end = run_all(
            {phase.name: command},
            seconds=max(limit, 1),
            logs=folder / "logs",
            environment=environment(settings, failed),
        )[phase.name]
        row = {"phase": phase.name, "outcome": outcome_of(end), "seconds": f"{end.seconds:.1f}"}
        append(folder / "phases.csv", {**row, "limit": f"{limit:.0f}", "about": phase.about})
        if row["outcome"] not in ("passed", "left out"):
            failed.add(phase.name)
        print(f"{phase.name:10} {row['outcome']}, {end.seconds:.0f} s", flush=True)
        if row["outcome"] != "passed":
            print(end.tail, flush=True)
        (folder / "summary.md").write_text(summary.render(folder, dry_run), encoding="utf-8")
        if packed:
            pack(folder, packed)
    where = (packed or folder) / "summary.md"
    print(f"summary: {where}; {time.monotonic() - settings.started:.0f} s in all")
    return 1 if failed else 0
