"""Runs pytest many times in a copy of the tree, and imports torch once.

``Server`` starts this file as a script: that process imports what does not change, then forks for
every run. What it imports must not import the package, which is what changes.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

OF_KERNELS = (
    *("torch._dynamo", "torch.testing", "torch.utils._sympy.functions", "hypothesis.strategies"),
    *("pytest", "xdist", "pytest_timeout"),
)
cpu_seconds = 0.0  # of all runs of this process's servers: conftest.py adds them to the test's
IMPORTED = (*OF_KERNELS, "scipy.stats", "transformers", "pandas")


class Server:
    """Runs pytest in a folder, each time in a process forked from one that has torch.

    Args:
        folder: the copy of the tree.
        environment: of every run; what is not said per run is read when torch is imported.
        output: the file that holds what a run prints.
        imported: the modules that are imported once.
    """

    def __init__(
        self,
        folder: Path,
        environment: dict[str, str],
        output: Path | None = None,
        imported: Sequence[str] = IMPORTED,
    ) -> None:
        self.spent = 0.0
        self.output = output or folder / "build/pytest.txt"
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), str(self.output), *imported],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def _line(self, seconds: float | None = None) -> str | None:
        assert self.process.stdout is not None
        if seconds is not None and not select.select([self.process.stdout], [], [], seconds)[0]:
            return None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the process that runs pytest ended")
        return line

    def run(
        self, arguments: Sequence[str], variables: dict[str, str], seconds: float
    ) -> tuple[int | None, str]:
        """Run pytest; return its exit code, None where its time was up, and what it printed."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([list(arguments), variables]) + "\n")
        child = int(self._line() or 0)
        said = self._line(max(seconds, 1))
        if said is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            self._line()
        text = self.output.read_text(encoding="utf-8", errors="replace")
        if said is None:
            return None, text
        code, spent = said.split()
        self._count(float(spent))
        return int(code), text

    def _count(self, seconds: float) -> None:
        global cpu_seconds
        cpu_seconds += seconds
        self.spent += seconds

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self._count(-self.spent)  # from here on they are among those of this process's children


def _child(arguments: list[str], variables: dict[str, str], output: str) -> None:
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.environ.update(variables)
    code = 1
    try:
        code = int(importlib.import_module("pytest").main(arguments))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve(output: str, imported: Sequence[str]) -> None:
    """Import what does not change, then run pytest as often as a line asks for it."""
    sys.path[0] = os.getcwd()
    for name in imported:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert "ncfast" not in sys.modules
    gc.freeze()  # pytest collects garbage at its end: not in what all runs share
    for line in sys.stdin:
        arguments, variables = json.loads(line)
        child = os.fork()
        if not child:
            _child(arguments, variables, output)
        print(child, flush=True)
        _, status, used = os.wait4(child, 0)
        spent = used.ru_utime + used.ru_stime
        print(os.waitstatus_to_exitcode(status), round(spent, 3), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
