"""A copy of the work tree in which a fault is planted, built and tested; the tree is untouched."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from .noticing import Run
from .table import ROOT, Fault

BROKEN = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """Hold what became of a fault.

    ``what``: "killed", "survived", "out of time" (no test failed in the time there was),
    "does not build", "unsound" (the test that failed fails without the fault too).
    """

    name: str
    file: str
    kind: str
    what: str
    by: str
    seconds: float
    key: str
    reason: str = ""

    def row(self) -> dict:
        """Return it as JSON takes it."""
        return asdict(self)


class Scratch:
    """Plants faults in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        shutil.rmtree(folder, ignore_errors=True)
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for name in listed:
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        self.native = folder / "ncfast/_native"
        shutil.copytree(ROOT / "ncfast/_native", self.native, dirs_exist_ok=True)
        self.sound = folder / "build/sound_native"
        shutil.copytree(self.native, self.sound)

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables of what runs here; objects are shared with the work tree."""
        mine = {
            "PYTHONPATH": str(self.root),
            "NCFAST_OBJECT_CACHE": str(object_cache_folder()),
            "NCFAST_BUILD_CAPABILITIES": "avx2",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return {**os.environ, **mine}

    def run(self, command: list[str], seconds: float, **variables: str) -> tuple[int | None, str]:
        """Run a command; None where its time was up. What it started ends with it."""
        process = subprocess.Popen(
            command,
            cwd=self.root,
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=max(seconds, 1))
            return process.returncode, output
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None, ""

    def build(self, fault: Fault, seconds: float) -> tuple[bool, str]:
        """Build what a fault's file is part of."""
        if fault.file.startswith("csrc/cuda/"):
            # The fixture of the tests finds it under this name.
            code = (
                "import build_cuda, subprocess, sys; path = f'build/libncfast_cuda_host-"
                "{build_cuda.sources_hash()}.so'; sys.exit(subprocess.run([sys.executable, "
                "'csrc/build_cuda.py', 'host', path]).returncode)"
            )
            command = [sys.executable, "-c", f"import sys; sys.path[:0] = ['csrc']; {code}"]
        elif fault.file.startswith("csrc/"):
            command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        else:
            return True, ""
        code, output = self.run(command, seconds, NCFAST_BUILD_NATIVE="1", NCFAST_BUILD_CUDA="0")
        return code == 0, output

    def clean(self, fault: Fault) -> None:
        """Take the fault out again, and what was built with it."""
        shutil.copy2(ROOT / fault.file, self.root / fault.file)
        for path in (self.root / "build").glob("lib*.so"):
            path.unlink()
        if fault.file.startswith("csrc/"):
            for path in self.sound.iterdir():
                shutil.copy2(path, self.native / path.name)

    def plant(self, fault: Fault, runs: list[Run], seconds: float) -> Outcome:
        """Plant a fault, build, and test until something fails."""
        began = time.monotonic()
        path = self.root / fault.file
        path.write_text(fault.planted(path.read_text(encoding="utf-8")), encoding="utf-8")
        try:
            what, by = self._tested(fault, runs, began + seconds)
        finally:
            self.clean(fault)
        took = round(time.monotonic() - began, 1)
        key = fault.key(ROOT)
        return Outcome(fault.name, fault.file, fault.kind, what, by, took, key, fault.reason)

    def failing(self, tests: list[str]) -> set[str]:
        """Return which tests fail in the tree as it is, or do not end in ten minutes."""
        interpreted = [test for test in tests if test.startswith("tests/kernels/interpreted")]
        plain = [test for test in tests if test not in interpreted]
        found: set[str] = set()
        for chosen, variables in ((plain, {}), (interpreted, {"TRITON_INTERPRET": "1"})):
            if chosen:
                command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rfE"]
                code, output = self.run([*command, *chosen], 600, **variables)
                found |= set(chosen) if code is None else set(BROKEN.findall(output))
        return found

    def _tested(self, fault: Fault, runs: list[Run], deadline: float) -> tuple[str, str]:
        good, output = self.build(fault, deadline - time.monotonic())
        if not good:
            errors = [line for line in output.splitlines() if "error" in line.lower()]
            return "does not build", (errors or [output[-200:]])[0][:200]
        ran = False
        for run in runs:
            command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-rfE"]
            left = deadline - time.monotonic()
            code, output = self.run([*command, *run.arguments], left, **run.variables)
            if code is None:
                return "out of time", ""
            if code == 4:
                raise RuntimeError(f"{fault.name}: pytest {run.arguments}\n{output[-2000:]}")
            if code == 5:  # nothing was chosen
                continue
            if code != 0:
                found = BROKEN.search(output)
                return "killed", found[1] if found else f"pytest ended with {code}"
            ran = True
        return "survived", "" if ran else "no test runs it"


def object_cache_folder() -> Path:
    """Return where compiled objects are kept for every copy."""
    return Path(os.environ.get("NCFAST_OBJECT_CACHE") or ROOT / "build/objects")
