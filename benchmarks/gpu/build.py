"""Builds the CUDA library with what is there: nvcc, g++ and torch; a dry run the emulator's.

No index, no pip, no setuptools and no git: ``csrc/build_cuda.py`` needs the standard library alone.
Only the card that is present is compiled for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .processes import ROOT
from .settings import settings_of

HOST_LIBRARY = "NCFAST_CUDA_HOST_LIBRARY"
# The code that runs on a card; others get all of it, with PTX for what is newer.
ARCHITECTURE_OF = {(8, 0): "80", (8, 6): "80", (8, 7): "80", (8, 9): "80", (9, 0): "90a"}
ARCHITECTURE_OF |= {(10, 0): "100a"}


def host_library() -> Path:
    """Return the emulator's library: the one that is named, or its place for these sources."""
    if given := os.environ.get(HOST_LIBRARY):
        return Path(given)
    command = "import build_cuda; print(build_cuda.sources_hash())"
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT / "csrc", capture_output=True, text=True
    )
    return ROOT / f"build/libncfast_cuda_host-{done.stdout.strip()}.so"


def device_library() -> Path:
    """Return where an install has the CUDA library."""
    return ROOT / "ncfast/_native/libncfast_cuda.so"


def architectures() -> list[str]:
    """Return what to compile for here: the card that is present, or everything."""
    import torch

    found = ARCHITECTURE_OF.get(torch.cuda.get_device_capability())
    return [] if found is None else ["--architectures", found]


def main(given: Sequence[str] | None = None) -> int:
    """Build; the exit code is the compiler's."""
    settings = settings_of(given, __doc__)
    if settings.dry_run:
        path, kind, chosen = host_library(), "host", []
        if path.exists():
            print(f"{path} is there already")
            return 0
    else:
        # One that is there may be of other sources: objects that are the same are found again.
        path, kind, chosen = device_library(), "device", architectures()
    command = [sys.executable, str(ROOT / "csrc/build_cuda.py"), kind, str(path), *chosen]
    print(*command, flush=True)
    code = subprocess.run(command, cwd=ROOT).returncode
    if kind == "device" and code == 0:
        note = f"built for {' '.join(chosen[1:]) or 'every architecture'}\n"
        path.with_name("build_cuda.txt").write_text(note, encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
