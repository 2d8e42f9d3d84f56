"""Builds the CUDA library here, as an install would; a dry run builds the emulator's."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .processes import ROOT
from .settings import settings_of

HOST_LIBRARY = "NCFAST_CUDA_HOST_LIBRARY"


def host_library() -> Path:
    """Return the emulator's library: the one that is named, or its place for these sources."""
    if given := os.environ.get(HOST_LIBRARY):
        return Path(given)
    command = "import build_cuda; print(build_cuda.sources_hash())"
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT / "csrc", capture_output=True, text=True
    )
    return ROOT / f"build/libncfast_cuda_host-{done.stdout.strip()}.so"


def main(given: Sequence[str] | None = None) -> int:
    """Build; the exit code is the compiler's."""
    settings = settings_of(given, __doc__)
    if settings.dry_run:
        path = host_library()
        if path.exists():
            print(f"{path} is there already")
            return 0
        command = [sys.executable, str(ROOT / "csrc/build_cuda.py"), "host", str(path)]
        return subprocess.run(command, cwd=ROOT).returncode
    return device_library()


def device_library() -> int:
    """Build the CUDA library in place; 1 where it is not there anew, whatever the rest says."""
    # Not NCFAST_BUILD_NATIVE=1: what else may be missing here, Python's headers say, is no matter.
    environment = {**os.environ, "NCFAST_BUILD_CUDA": "1"}
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    if importlib.util.find_spec("setuptools") is None:  # Python 3.12's environments have none
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "-e", "."]
    library = ROOT / "ncfast/_native/libncfast_cuda.so"
    before = library.stat().st_mtime_ns if library.exists() else None
    code = subprocess.run(command, cwd=ROOT, env=environment).returncode
    after = library.stat().st_mtime_ns if library.exists() else None
    if code == 0 and after == before:
        print(f"{library.name} was not built: see above, and the notes in {library.parent}")
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
