"""Loads the compiled CPU library and says what it holds.

One build carries the same kernels for several CPU capabilities, each as a library of its own
(``ncfast/_native/``); one of them is loaded per process.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch

from .errors import DataError

__all__ = [
    "CAPABILITIES",
    "allocate",
    "call",
    "calls_go_to",
    "describe",
    "head_workspace",
    "missing",
]

CAPABILITIES = ("avx2", "portable")
_REFUSAL = "ncfast: "
_elsewhere: ContextVar[Callable[..., None] | None] = ContextVar("ncfast_native", default=None)
_FOLDER = Path(__file__).parent / "_native"


def _library_path(capability: str) -> Path:
    return _FOLDER / f"libncfast_cpu_{capability}.so"


def _wanted_capability() -> str:
    wanted = os.environ.get("NCFAST_CPU_CAPABILITY")
    if wanted is not None:
        if wanted not in CAPABILITIES:
            raise ValueError(
                f"NCFAST_CPU_CAPABILITY is {wanted!r}; expected one of {', '.join(CAPABILITIES)}"
            )
        return wanted
    # torch's AVX2 level includes FMA and F16C, which the avx2 library is built with.
    has_avx2 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return "avx2" if has_avx2 and _library_path("avx2").exists() else "portable"


@functools.lru_cache(maxsize=1)
def _load() -> tuple[str | None, str]:
    """Return the loaded library's capability, or None and the reason."""
    capability = _wanted_capability()
    path = _library_path(capability)
    if not path.exists():
        note = _FOLDER / "build.txt"
        why = note.read_text(encoding="utf-8").strip() if note.exists() else "it was never built"
        return None, f"the C++ library for {capability} is not installed: {why}"
    try:
        torch.ops.load_library(str(path))
        built = ctypes.CDLL(str(path)).ncfast_build
    except OSError as error:
        return None, f"the C++ library cannot be loaded with torch {torch.__version__}: {error}"
    built.restype = ctypes.c_char_p
    if built().decode() != capability:
        return None, f"{path.name} was built for {built().decode()}"
    return capability, ""


def missing(name: str) -> str:
    """Return why a native kernel cannot be called, or an empty string."""
    capability, reason = _load()
    if capability is None:
        return reason
    if not hasattr(torch.ops.ncfast_native, name):
        return f"the installed C++ library has no {name}; reinstall ncfast"
    return ""


def describe() -> dict[str, Any]:
    """Describe the CPU library: its path, capability, what is built, and what is wrong.

    >>> sorted(describe())
    ['built', 'capability', 'cpu', 'path', 'reason', 'threads']
    """
    capability, reason = _load()
    return {
        "capability": capability,
        "path": str(_library_path(capability)) if capability else None,
        "reason": reason,
        "built": [c for c in CAPABILITIES if _library_path(c).exists()],
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def head_workspace(*sizes: int) -> tuple[int, int] | None:
    """Return the bytes that linear_cross_entropy and its backward take, or None without a library.

    Args:
        sizes: tokens, classes, width, bytes of a logit, whether the head's rows are converted,
            threads (csrc/common/head_panels.h).

    >>> head_workspace(4096, 49152, 576, 4, 0, 2)[1] <= 64 << 20
    True
    """
    capability, _ = _load()
    if capability is None:
        return None
    found = (ctypes.c_int64 * 2)()
    library = ctypes.CDLL(str(_library_path(capability)))
    library.ncfast_head_workspace(*map(ctypes.c_int64, sizes), found)
    return found[0], found[1]


@contextmanager
def calls_go_to(function: Callable[..., None]) -> Iterator[None]:
    """Hand the native calls made inside the block, in this thread, to another library's."""
    token = _elsewhere.set(function)
    try:
        yield
    finally:
        _elsewhere.reset(token)


def call(name: str, *args: Any) -> None:
    """Run a native kernel, turning its complaint about values into a :class:`DataError`."""
    function = _elsewhere.get() or _call_cpu
    try:
        function(name, *args)
    except RuntimeError as error:
        message = str(error)
        if message.startswith(_REFUSAL):  # csrc/common/refuse.h
            raise DataError(message.removeprefix(_REFUSAL)) from None
        raise


def _call_cpu(name: str, *args: Any) -> None:
    getattr(torch.ops.ncfast_native, name)(*args)


def allocate(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return uninitialised memory for an output.

    The one place outputs come from, so that tests can fill them with NaN first.
    """
    return torch.empty(shape, dtype=dtype, device=device)
