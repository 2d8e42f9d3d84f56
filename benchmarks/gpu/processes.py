"""Runs commands beside one another, each in a process group that a time limit ends whole."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Ended", "run_all"]

ROOT = Path(__file__).parents[2]
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Ended:
    """Hold how a command ended: its exit code, None where its time was up before it was done."""

    code: int | None
    seconds: float
    log: Path

    @property
    def outcome(self) -> str:
        """Return the end in a word or two."""
        if self.code is None:
            return "out of time"
        return "passed" if self.code == 0 else f"failed, exit {self.code}"

    @property
    def tail(self) -> str:
        """Return the last lines of what it printed."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return "\n".join(text.strip().splitlines()[-15:])


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended by itself
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_all(
    commands: Mapping[str, list[str]],
    *,
    seconds: float,
    logs: Path,
    at_once: int = 1,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Ended]:
    """Run every command, a few at once; those that are not done in time are killed, or not begun.

    ``seconds`` is how long all of them may take together; ``logs`` gets what each prints, NAME.txt;
    ``environment`` is beside this process's own.
    """
    logs.mkdir(parents=True, exist_ok=True)
    deadline, waiting = time.monotonic() + seconds, list(commands)
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    ended: dict[str, Ended] = {}
    variables = {**os.environ, **(environment or {})}
    try:
        while (waiting or running) and time.monotonic() <= deadline:
            while waiting and len(running) < at_once:
                name = waiting.pop(0)
                process = _begun(commands[name], logs / f"{name}.txt", variables)
                running[name] = process, time.monotonic()
            for name, (process, began) in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    took = time.monotonic() - began
                    ended[name] = Ended(process.returncode, took, logs / f"{name}.txt")
            time.sleep(_POLL_SECONDS)
    finally:
        for process, _ in running.values():
            _end(process)
    for name, (_, began) in running.items():
        ended[name] = Ended(None, time.monotonic() - began, logs / f"{name}.txt")
    for name in waiting:
        ended[name] = Ended(None, 0.0, logs / f"{name}.txt")
    return {name: ended[name] for name in commands}


def _begun(command: list[str], log: Path, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    with open(log, "wb") as file:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=variables,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
