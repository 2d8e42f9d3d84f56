"""A copy of the work tree in which a fault is planted, built and tested; the tree is untouched."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.serving import Server

from .noticing import Run
from .table import ROOT, Fault

BROKEN = re.compile(r"^(?:FAILED|ERROR) ([^\s\[]+(?:\[.*?\])?)(?: - (.*))?$", re.MULTILINE)
# What fails so was not run with the fault in it: nothing was noticed.
NOT_RUN = re.compile(
    r"\b(Import|ModuleNotFound|Syntax|Indentation|Name|UnboundLocal|Compilation)Error\b"
    r"|undefined symbol"
)
# What a loaded machine does to a test, whatever was planted.
LATE = re.compile(r"\bTimeout \(>|\bTimeoutExpired\b")


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
    said: str = ""  # by the test that failed

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
        self.servers: dict[str, Server] = {}
        self.texts: dict[str, str] = {}
        self.planted = 0

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables of what runs here; objects are shared with the work tree."""
        mine = {
            "PYTHONPATH": str(self.root),
            "NCFAST_OBJECT_CACHE": str(object_cache_folder()),
            "NCFAST_BUILD_CAPABILITIES": "avx2",
            "OMP_NUM_THREADS": "1",
            "NCFAST_TEST_FIRST_FAILURE": "1",
            "COLUMNS": "400",  # or pytest cuts off what a failure said
        }
        return {**os.environ, **mine}

    def run(self, command: list[str], seconds: float, **variables: str) -> tuple[int | None, str]:
        """Run a compiler; None where its time was up."""
        environment = {**self.environment, **variables}
        try:
            done = subprocess.run(
                command,
                cwd=self.root,
                env=environment,
                capture_output=True,
                text=True,
                timeout=max(seconds, 1),
            )
        except subprocess.TimeoutExpired:
            return None, ""
        return done.returncode, done.stdout + done.stderr

    def pytest(self, run: Run, seconds: float, *options: str) -> tuple[int | None, str]:
        """Run tests; None where their time was up. What they started ends with them."""
        interpreted = run.variables.get("TRITON_INTERPRET", "")
        if interpreted not in self.servers:  # Triton reads it when it is imported
            environment = {**self.environment, "TRITON_INTERPRET": interpreted}
            if not interpreted:
                environment.pop("TRITON_INTERPRET")
            self.servers[interpreted] = Server(self.root, environment)
        arguments = [*options, "--assert=plain", "-p", "no:cacheprovider", "-rfE", *run.arguments]
        return self.servers[interpreted].run(arguments, run.variables, seconds)

    def build(self, fault: Fault, run: Run, seconds: float) -> tuple[bool, str]:
        """Build what a run needs of what a fault's file is part of."""
        if fault.file.startswith("csrc/cuda/"):
            noted = self.root / f"build/sound_{run.kind}.json"
            command = [sys.executable, "tests/mutants/emulator.py", run.kind, str(noted)]
            if not noted.exists():  # without the fault
                self.write(fault, self.sound_text(fault))
                code, output = self.run(command, seconds)
                self.write(fault, fault.planted(self.sound_text(fault)))
                if code != 0:
                    return False, output
            command += run.sources
        elif fault.file.startswith("csrc/"):
            command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        else:
            return True, ""
        code, output = self.run(command, seconds, NCFAST_BUILD_NATIVE="1", NCFAST_BUILD_CUDA="0")
        return code == 0, output

    def sound_text(self, fault: Fault) -> str:
        """Return the file of a fault as this copy has it: the work tree may have gone on."""
        if fault.file not in self.texts:
            self.texts[fault.file] = (self.root / fault.file).read_text(encoding="utf-8")
        return self.texts[fault.file]

    def write(self, fault: Fault, text: str) -> None:
        """Write the file of a fault; what Python compiled of it is known by time and size."""
        path = self.root / fault.file
        path.write_text(text, encoding="utf-8")
        self.planted += 1
        os.utime(path, (self.planted, self.planted))

    def clean(self, fault: Fault) -> None:
        """Take the fault out again, and what was built with it."""
        self.write(fault, self.sound_text(fault))
        for path in (self.root / "build").glob("lib*.so"):
            path.unlink()
        if fault.file.startswith("csrc/"):
            for path in self.sound.iterdir():
                shutil.copy2(path, self.native / path.name)

    def plant(self, fault: Fault, runs: Iterable[Run], seconds: float) -> Outcome:
        """Plant a fault, build, and test until something fails."""
        began = time.monotonic()
        self.write(fault, fault.planted(self.sound_text(fault)))
        try:
            what, by, said = self._tested(fault, runs, began + seconds)
        finally:
            self.clean(fault)
        took = round(time.monotonic() - began, 1)
        key = fault.key(self.root)
        return Outcome(fault.name, fault.file, fault.kind, what, by, took, key, fault.reason, said)

    def failing(self, tests: list[str]) -> set[str]:
        """Return which tests fail in the tree as it is, or do not end in time."""
        runs: dict[tuple[str, str], list[str]] = {}
        for test in tests:
            name, _, kind = test.partition(" on ")
            interpreted = str(name.startswith("tests/kernels/interpreted"))
            runs.setdefault((kind, interpreted), []).append(name)
        found: set[str] = set()
        for (kind, interpreted), names in runs.items():
            variables = {"NCFAST_TEST_EMULATOR": kind} if kind else {}
            variables |= {"TRITON_INTERPRET": "1"} if interpreted == "True" else {}
            seconds = max(600, 20 * len(names))
            code, output = self.pytest(Run(tuple(names), variables), seconds)
            # Of 0 and 1 every test ran; else some are not there, or pytest did not come to them.
            failed = [name for name, _ in BROKEN.findall(output)] if code in (0, 1) else names
            found |= {f"{name} on {kind}" if kind else name for name in failed}
        return found

    def close(self) -> None:
        """End what runs here."""
        for server in self.servers.values():
            server.close()

    def _tested(self, fault: Fault, runs: Iterable[Run], deadline: float) -> tuple[str, str, str]:
        ran, built = False, None
        for run in runs:
            if built != (run.kind, run.sources):
                good, output = self.build(fault, run, deadline - time.monotonic())
                built = (run.kind, run.sources)
                if not good and time.monotonic() >= deadline:
                    return "out of time", "", ""
                if not good:
                    errors = [line for line in output.splitlines() if "error" in line.lower()]
                    return "does not build", (errors or [output[-200:]])[0][:200], ""
            code, output = self.pytest(run, deadline - time.monotonic(), "-x")
            if code is None:
                return "out of time", "", ""
            if code == 4 and run.known:
                continue
            if code == 4:
                raise RuntimeError(f"{fault.name}: pytest {run.arguments}\n{output[-2000:]}")
            if code == 5:  # nothing was chosen
                continue
            if code != 0:
                return noticed(code, output, "" if run.kind == "plain" else f" on {run.kind}")
            ran = True
        return "survived", "" if ran else "no test runs it", ""


def noticed(code: int, output: str, where: str) -> tuple[str, str, str]:
    """Return what a failing run says of a fault, which test failed, and what that said.

    A test that fails because the fault cannot be imported or compiled noticed nothing; nor did one
    that a limit of time ended.

    >>> noticed(1, "FAILED tests/test_a.py::test_b - AssertionError: x is 3", "")
    ('killed', 'tests/test_a.py::test_b', 'AssertionError: x is 3')
    >>> noticed(1, "FAILED tests/test_a.py::test_b[c - d] - NameError: name 'x'", " on races")[:2]
    ('does not build', "tests/test_a.py::test_b[c - d] on races: NameError: name 'x'")
    >>> noticed(1, "FAILED tests/test_a.py::test_b - Failed: Timeout (>600.0s) from", "")[0]
    'out of time'
    >>> noticed(-11, "", "")[0], noticed(-9, "", "")[0]
    ('killed', 'out of time')
    >>> noticed(2, "ERROR tests/test_a.py - ValueError: collected", "")[0]
    'does not build'
    """
    found = BROKEN.search(output)
    if code in (-signal.SIGKILL, -signal.SIGTERM):  # by whoever wanted the memory or the core
        return "out of time", crash(code, output) + where, ""
    if found is None:
        return "killed", crash(code, output) + where, ""
    said = (found[2] or "")[:300]
    if NOT_RUN.search(said) or "::" not in found[1]:
        return "does not build", f"{found[1]}{where}: {said}", said
    if LATE.search(said):
        return "out of time", found[1] + where, said
    return "killed", found[1] + where, said


def crash(code: int, output: str) -> str:
    """Say where a process ended that no test is blamed for, from what faulthandler prints."""
    found = re.search(r'File ".*?/(tests/[^"]+)", line \d+ in (test_\w+)', output)
    where = f"in {found[1]}, {found[2]}" if found else output.strip()[-200:]
    return f"pytest ended with {code} {where}"


def object_cache_folder() -> Path:
    """Return where compiled objects are kept for every copy."""
    return Path(os.environ.get("NCFAST_OBJECT_CACHE") or ROOT / "build/objects")
