"""Loads the compiled CPU library and says what it holds.

One build carries the same kernels for several CPU capabilities, each as a library of its own
(``ncfast/_native/``); one of them is loaded per process.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable, Iterator, Mapping
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
    "environment",
    "head_workspace",
    "missing",
    "products",
]

CAPABILITIES = ("avx2", "portable")
# How float32 and bfloat16 are multiplied: what the variable that asks for it says, and in words.
_FLOAT32 = {"mm": "torch.mm", "onednn": "oneDNN"}
_BFLOAT16 = {
    "widened": "widened to float32",
    "pairs": "as it is, with AVX512_BF16",
    "mkl": "as it is, by MKL",
}
_REFUSAL = "ncfast: "
_elsewhere: ContextVar[Callable[..., None] | None] = ContextVar("ncfast_native", default=None)
_FOLDER = Path(__file__).parent / "_native"
_FEWER_DIGITS = ("bf16", "tf32")  # what set_float32_matmul_precision lets products round float32 to
_lock = threading.Lock()
_inside, _told = 0, ""  # calls that are running, and what torch was told before the first of them


def _library_path(capability: str) -> Path:
    return _FOLDER / f"libncfast_cpu_{capability}.so"


def _wanted_capability() -> str:
    requested = os.environ.get("NCFAST_CPU_CAPABILITY")
    if requested is not None:
        if requested not in CAPABILITIES:
            raise ValueError(
                f"NCFAST_CPU_CAPABILITY is {requested!r}; expected one of {', '.join(CAPABILITIES)}"
            )
        return requested
    # torch's AVX2 level includes FMA and F16C, which the avx2 library is built with.
    has_avx2 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return "avx2" if has_avx2 and _library_path("avx2").exists() else "portable"


def _asked(variable: str, known: Mapping[str, str]) -> str | None:
    """Return which products a variable asks for, or None."""
    asked = os.environ.get(variable)
    if asked is not None and asked not in known:
        raise ValueError(f"{variable} is {asked!r}; expected one of {', '.join(known)}")
    return asked


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
    asked = (_asked("NCFAST_CPU_PRODUCTS", _FLOAT32), _asked("NCFAST_CPU_BFLOAT16", _BFLOAT16))
    if any(asked):  # what is asked for by name is never something else
        found, _ = _measured(path)
        for name, given, chosen in zip(("PRODUCTS", "BFLOAT16"), asked, found, strict=True):
            if given not in (None, chosen):
                raise ValueError(
                    f"NCFAST_CPU_{name} is {given!r}; this CPU or this torch has no such products"
                )
    return capability, ""


def _measured(path: Path) -> tuple[tuple[str, str], list[float]]:
    """Return which products were chosen, and the rates that decided: product_choice.h."""
    chosen, rates = (ctypes.c_int32 * 2)(), (ctypes.c_double * 4)()
    with _all_digits():
        ctypes.CDLL(str(path)).ncfast_products(chosen, rates)
    return (list(_FLOAT32)[chosen[0]], list(_BFLOAT16)[chosen[1]]), list(rates)


def products() -> dict[str, str]:
    """Say how this CPU multiplies float32 and bfloat16, and the rates a thread reached.

    The first product that is worth it, or this function, measures once per process. To choose, set
    ``NCFAST_CPU_PRODUCTS`` (mm, onednn) and ``NCFAST_CPU_BFLOAT16`` (widened, pairs, mkl). Empty
    without the library.

    >>> sorted(products())
    ['bfloat16', 'float32']
    """
    capability, _ = _load()
    if capability is None:
        return {}
    (wide, narrow), (mm, onednn, pairs, mkl) = _measured(_library_path(capability))

    def rate(name: str, value: float) -> str:
        return f"{name} {value:.0f}" if value else f"no {name}"

    return {
        "float32": f"{_FLOAT32[wide]} (GFLOP/s a thread: {rate('torch.mm', mm)}, "
        f"{rate('oneDNN', onednn)})",
        "bfloat16": f"{_BFLOAT16[narrow]} (GFLOP/s a thread: {rate('AVX512_BF16', pairs)}, "
        f"{rate('MKL', mkl)})",
    }


def environment() -> dict[str, str]:
    """Return the variables under which another process multiplies as this one does.

    >>> all(name.startswith("NCFAST_CPU_") for name in environment())
    True
    """
    capability, _ = _load()
    if capability is None:
        return {}
    wide, narrow = _measured(_library_path(capability))[0]
    return {
        "NCFAST_CPU_CAPABILITY": capability,
        "NCFAST_CPU_PRODUCTS": wide,
        "NCFAST_CPU_BFLOAT16": narrow,
    }


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
    """Run a native kernel, turning its error about values into a :class:`DataError`."""
    function = _elsewhere.get() or _call_cpu
    try:
        function(name, *args)
    except RuntimeError as error:
        message = str(error)
        if message.startswith(_REFUSAL):  # csrc/common/reject.h
            raise DataError(message.removeprefix(_REFUSAL)) from None
        raise


def _call_cpu(name: str, *args: Any) -> None:
    with _all_digits():
        getattr(torch.ops.ncfast_native, name)(*args)


@contextmanager
def _all_digits() -> Iterator[None]:
    """Let torch's products, which kernels use, keep float32's digits whatever it was told.

    ``torch.set_float32_matmul_precision("medium")`` leaves 8 bits of 24 on CPUs with AMX.
    """
    global _inside, _told
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    with _lock:
        if not _inside and (_told := matmul.fp32_precision) in _FEWER_DIGITS:
            matmul.fp32_precision = "ieee"
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside and _told in _FEWER_DIGITS:
                matmul.fp32_precision = _told


def allocate(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return uninitialised memory for an output.

    The one place outputs come from, so that tests can fill them with NaN first.
    """
    return torch.empty(shape, dtype=dtype, device=device)
