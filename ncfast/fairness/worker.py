"""Another process that answers: how it is started, told, heard, and ended."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import dispatch, native
from .errors import EvaluationError
from .importing import MARK, START, script_of

__all__ = ["Worker", "interpreter"]

# Where this package was imported from: the current folder, of which that may be part, can change.
PLACE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "__init__.py")
PATIENCE = 5.0  # seconds for a process to end that has closed its replies


def interpreter() -> str:
    """Return the Python to start beside this one; an error where that is another program.

    A program that is packed with its Python, or holds one, is started with ``-c`` as it is without:
    it would do everything again.
    """
    name = Path(sys.executable or "").name
    if getattr(sys, "frozen", False) or not name.lower().startswith(("python", "pypy")):
        raise EvaluationError(
            f"this program is {name or 'without a name'}; expected a Python interpreter"
        )
    return sys.executable


class Worker:
    """Hold a process that is told through its standard input, and replies in pairs."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [interpreter(), "-c", START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
        )
        self._begun = False

    def begin(self, handed: bytes) -> None:
        """Tell it where to import from, and what :func:`serve` reads first."""
        self.send(pickle.dumps((sys.path, PLACE, script_of())) + handed)

    def send(self, what: bytes) -> None:
        """Write to its standard input; that it has ended is told by :meth:`read`."""
        stream = self.process.stdin
        assert stream is not None
        with contextlib.suppress(OSError):
            stream.write(what)
            stream.flush()

    def read(self, key: str) -> tuple[str, Any]:
        """Return its next reply; an error that names ``key`` where none will come."""
        stream = self.process.stdout
        assert stream is not None
        try:
            while not self._begun:
                line = stream.readline(1 << 16)
                if not line:
                    raise EOFError
                self._begun = line == MARK
            reply: tuple[str, Any] = pickle.load(stream)
        except Exception:  # what is no pickle raises nearly anything
            raise EvaluationError(
                f"{key}: the process that was asked {self._ended()}; expected answers (--threads 1 "
                "asks in one process)"
            ) from None
        return reply

    def _ended(self) -> str:
        """Say how it ended, and end it where it only stopped to reply."""
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return "sent no answer that can be read"
        if code >= 0:
            return f"ended with exit code {code}"
        why = ", as where memory is short" if code == -getattr(signal, "SIGKILL", 9) else ""
        return f"was killed by signal {-code}{why}"

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Close its streams, of which nothing is read any more."""
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # of what was never sent
                if stream is not None:
                    stream.close()


def _environment() -> Mapping[str, str]:
    """Return the variables under which another process computes as this one, in one thread."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONINSPECT"}
    one = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
    return {**kept, **one, "NCFAST_BACKEND": dispatch.requested(), **native.environment()}
