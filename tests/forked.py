"""Runs ranks and programs in processes forked from one that has torch and transformers.

Importing them takes a process longer than most of what tests let it do. The one that imports is
multiprocessing's fork server, one for all tests of a process: it computes nothing and has no
threads. The package, which faults are planted in, every process imports for itself. What looks at
memory, at imports or at the interpreter itself needs a process of its own all the same.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

IMPORTED = (
    *("torch", "torch._dynamo", "torch.testing", "torch.distributed.tensor.parallel"),
    *("torch.distributed.fsdp", "torch.nn.parallel", "pytest", "numpy", "safetensors.torch"),
    *("transformers", "transformers.models.auto.modeling_auto", "transformers.modeling_utils"),
    *("transformers.models.gpt2.modeling_gpt2", "transformers.models.llama.modeling_llama"),
    *("transformers.models.bert.modeling_bert", "transformers.trainer", "scipy.stats", "pandas"),
)
THREADS = "OMP_NUM_THREADS"
_started: weakref.WeakSet[Any] = weakref.WeakSet()
_starter = os.getpid()


@atexit.register
def _end_all() -> None:
    """End what a test has left running: Python would wait for it, for as long as it runs."""
    for process in list(_started):
        if os.getpid() == _starter and process.is_alive():
            process.kill()


def run_ranks(
    function: Callable[..., None],
    args: tuple[Any, ...],
    ranks: int = 2,
    how: str = "forkserver",
) -> None:
    """Call ``function(rank, *args)`` in as many processes; raise what one of them raised.

    Args:
        function: of a module's own, which every process imports.
        args: what is given after the rank; it is pickled.
        ranks: how many processes.
        how: "spawn" starts interpreters that have imported nothing, as torchrun's are.
    """
    import torch

    multiprocessing.set_forkserver_preload(list(IMPORTED))
    given = (dict(os.environ), function.__module__, function.__qualname__, args)
    group = torch.multiprocessing.start_processes(
        _rank, given, nprocs=ranks, join=False, start_method=how
    )
    _started.update(group.processes)
    while not group.join():
        pass


def _rank(
    rank: int, environment: dict[str, str], module: str, name: str, args: tuple[Any, ...]
) -> None:
    _own(environment)
    getattr(importlib.import_module(module), name)(rank, *args)


def _own(environment: dict[str, str]) -> None:
    """Take on what the test said; the server has what was said in the test that started it."""
    gc.freeze()  # not to be gone through in every collection
    before = os.environ.get(THREADS)
    os.environ.clear()
    os.environ.update(environment)
    if "torch" in sys.modules and environment.get(THREADS) != before:
        # The server's torch has read what was said to the server.
        count = environment.get(THREADS) or len(os.sched_getaffinity(0))
        sys.modules["torch"].set_num_threads(int(count))


class Forked:
    """Run a program as ``subprocess.Popen([sys.executable, *words], text=True)`` does.

    Args:
        words: what an interpreter is given: ``-m MODULE``, ``-c CODE`` or a file, and its words.
        env: the environment.
        cwd: the folder it runs in.
    """

    def __init__(
        self,
        words: Sequence[str | Path],
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
    ) -> None:
        multiprocessing.set_forkserver_preload(list(IMPORTED))
        self._folder = tempfile.TemporaryDirectory()
        self.args = [str(word) for word in words]
        self._streams = [f"{self._folder.name}/{name}" for name in ("stdout", "stderr")]
        for path in self._streams:
            Path(path).touch()
        environment, folder = dict(os.environ if env is None else env), str(cwd or os.getcwd())
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_program, args=(self.args, environment, folder, self._streams)
        )
        self._process.start()
        _started.add(self._process)
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Return the exit code, negative for a signal, None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait until it has ended; return what it printed."""
        self.wait(timeout)
        return self.read(0), self.read(1)

    def read(self, stream: int) -> str:
        """Return what it has printed so far: 0 for stdout, 1 for stderr."""
        return Path(self._streams[stream]).read_text(encoding="utf-8", errors="replace")

    def send_signal(self, number: int) -> None:
        """Send a signal to it, if it runs."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def run(
    words: Sequence[str | Path],
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    timeout: float | None = None,
    check: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as ``subprocess.run([sys.executable, *words], ...)`` does."""
    program = Forked(words, env, cwd)
    try:
        said = program.communicate(timeout)
    finally:
        program.kill()
    done = subprocess.CompletedProcess(program.args, program.returncode, *said)
    if check:
        done.check_returncode()
    return done


def _program(
    words: list[str], environment: dict[str, str], folder: str, streams: list[str]
) -> None:
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    _own(environment)
    os.chdir(folder)
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [folder, *filter(None, paths)]
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), module.__dict__)
    else:
        sys.argv = words
        sys.path[0] = str(Path(words[0]).parent)
        runpy.run_path(words[0], run_name="__main__")


def cpu_seconds() -> float:
    """Return what the server and the processes it has seen end took: no children of this one."""
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return 0.0
    # After the name in brackets: state first, then times in 11 to 14, those of its children last.
    ticks = text.rpartition(")")[2].split()[11:15]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
