"""Compiles sources to object files that are found again by what they are made of.

An object lies in ``build/objects`` (or in the folder that NCFAST_OBJECT_CACHE names) under a hash
of its command, its compiler and every file of this repository that it includes: after one changed
file only what includes it is compiled, whichever library, checkout or test asks. Only the standard
library is used: setup.py loads this file where nothing else is installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT_SECONDS = 30 * 24 * 3600  # objects that nobody asked for this long are removed
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


@dataclass(frozen=True)
class Job:
    """Hold a compiler's command without its source and output, and what else decides the object."""

    command: tuple[str, ...]
    source: Path
    about: str = ""  # a version of headers from outside, whose paths may stay the same


def cache() -> Path:
    """Return the folder of objects."""
    return Path(os.environ.get("NCFAST_OBJECT_CACHE") or ROOT / "build/objects")


@functools.cache
def compiler_version(program: str) -> str:
    """Return what a compiler says it is."""
    found = subprocess.run([program, "--version"], capture_output=True, text=True)
    return found.stdout + found.stderr


@functools.cache
def _included(path: Path, _changed: int) -> tuple[Path, ...]:
    found = INCLUDE.findall(path.read_text(encoding="utf-8"))
    return tuple((path.parent / name).resolve() for name in found)


def closure(source: Path) -> list[Path]:
    """Return a source and all files it includes by quoted names, whatever the macros say."""
    seen: set[Path] = set()
    waiting = [source.resolve()]
    while waiting:
        path = waiting.pop()
        if path not in seen and path.exists():
            seen.add(path)
            waiting += _included(path, path.stat().st_mtime_ns)
    return sorted(seen)


def _named(path: Path) -> str:
    """Return a path as every checkout has it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def key(job: Job) -> str:
    """Return the hash of all that decides an object."""
    command = shlex.join(job.command).replace(f"{ROOT}/", "")
    digest = hashlib.sha256(f"{command}\n{job.about}\n{compiler_version(job.command[0])}".encode())
    for path in closure(job.source):
        digest.update(f"{_named(path)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock: of two processes that build the same thing, one waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compiled(job: Job, run: Callable[[list[str]], object]) -> Path:
    path = cache() / key(job) / f"{job.source.name}.o"
    with locked(path.parent / "lock"):
        if not path.exists():
            new = path.with_suffix(f".{os.getpid()}.new")
            run([*job.command, "-c", _named(job.source), "-o", str(new)])
            new.replace(path)
        os.utime(path.parent)  # the last use
    return path


def compile_all(jobs: Sequence[Job], run: Callable[[list[str]], object]) -> list[Path]:
    """Compile what is not there yet, as many at once as there are cores; return every object.

    Args:
        jobs: what to compile.
        run: runs one command in ROOT and raises where it fails.
    """
    # The largest sources take longest: begun first, none is left over at the end.
    order = sorted(range(len(jobs)), key=lambda i: -jobs[i].source.stat().st_size)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        waiting = {i: pool.submit(_compiled, jobs[i], run) for i in order}
        objects = [waiting[i].result() for i in range(len(jobs))]
    _prune()
    return objects


def _prune() -> None:
    for folder in cache().iterdir():
        if folder.is_dir() and time.time() - folder.stat().st_mtime > KEPT_SECONDS:
            for path in folder.iterdir():
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # somebody begins to compile it again
                folder.rmdir()
