"""compute-sanitizer's memcheck on every op at the smallest size, where the tool is installed."""

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
    watch = [found, "--tool", "memcheck", "--error-exitcode", str(ERROR_EXIT)]
    commands = {op: [*watch, *settings.command("sanitize", op)] for op in settings.ops()}
    # Memory from a cache of torch's has no edges that the tool could see.
    ended = run_all(
        commands,
        seconds=settings.left - 2,
        logs=settings.out / "logs/sanitize",
        at_once=6,
        environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
    )
    for op, end in ended.items():
        append(settings.out / "sanitize.csv", {"op": op, "outcome": end.outcome})
        print(f"{op:32} {end.outcome}, {end.seconds:.0f} s")
    return 0 if all(end.code == 0 for end in ended.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
