"""compute-sanitizer on every op at the smallest size: memory, races and what nobody wrote."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from .processes import run_all
from .settings import Settings, append, settings_of

ERROR_EXIT = 99
LEFT_OUT_EXIT = 77  # phases.py writes it down as left out
TOOLS = ("memcheck", "racecheck", "initcheck")


def tool() -> str | None:
    """Return compute-sanitizer: of PATH or of CUDA_HOME."""
    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    return shutil.which("compute-sanitizer") or shutil.which(str(home / "bin/compute-sanitizer"))


def once(settings: Settings) -> int:
    """Call the ops named once at the tiny head: what the tool watches."""
    from ncfast import check_device_errors, use_backend

    from .calls import arguments, call
    from .heads import TINY
    from .repeat import fresh

    for op in settings.ops():
        for backend in settings.kernels(op):
            for dtype in settings.dtypes:
                given = arguments(op, TINY[0], dtype, settings.device)
                with use_backend(backend):
                    call(op, fresh(op, given))
                check_device_errors()
                print(f"{op} {backend} {dtype}", flush=True)
    return 0


def main(given: Sequence[str] | None = None) -> int:
    """Watch every op, each in a process of its own."""
    settings = settings_of(given, __doc__)
    if settings.words:
        return once(settings)
    found = tool()
    if found is None:
        print("compute-sanitizer was not found on PATH or in CUDA_HOME: nothing was watched")
        return LEFT_OUT_EXIT
    # What a tool finds of the first op is worth more than a second tool's word on it: by tools.
    commands = {
        f"{op} {name}": [
            *(found, "--tool", name, "--error-exitcode", str(ERROR_EXIT)),
            *settings.command("sanitize", op),
        ]
        for name in TOOLS
        for op in settings.ops()
    }
    # Memory from a cache of torch's has no edges that the tool could see.
    ended = run_all(
        commands,
        seconds=settings.left - 2,
        logs=settings.out / "logs/sanitize",
        at_once=6,
        environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
    )
    for name, end in ended.items():
        op, _, kind = name.partition(" ")
        append(settings.out / "sanitize.csv", {"op": op, "tool": kind, "outcome": end.outcome})
        print(f"{op:32} {kind:10} {end.outcome}, {end.seconds:.0f} s")
    return 0 if all(end.code == 0 for end in ended.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
