"""Peak memory of one call beside its outputs, as the operating system saw it.

The kernel's own high-water mark (VmHWM), reset before the call, sees every library's memory and no
moment escapes it. Where it cannot be reset, a thread reads the resident size once a millisecond and
may miss a short peak. Elsewhere than on Linux nothing is measured.
"""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

__all__ = ["method", "output_bytes", "peak_extra_bytes"]

_PROC = Path("/proc/self")
_RESET_PEAK = "5"


def _high_water_bytes() -> int:
    for line in (_PROC / "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise OSError("/proc/self/status has no VmHWM")


def _resident_bytes() -> int:
    return int((_PROC / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def method() -> str:
    """Return how memory is measured here.

    >>> method() in ("VmHWM", "resident size each millisecond", "not measured")
    True
    """
    try:
        (_PROC / "clear_refs").write_text(_RESET_PEAK)
        _high_water_bytes()
        return "VmHWM"
    except OSError:
        return "resident size each millisecond" if (_PROC / "statm").exists() else "not measured"


def output_bytes(returned: Any) -> int:
    """Return the memory of all tensors in what a call returned, shared memory counted once."""
    storages: dict[int, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, tuple | list):
            for item in value:
                visit(item)

    visit(returned)
    return sum(storages.values())


def _return_freed_memory() -> None:
    """Hand freed memory back to the system: what an earlier call left would hide this one's."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _sampled_peak(call: Callable[[], Any]) -> tuple[Any, int]:
    peak, done = _resident_bytes(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, _resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        returned = call()
    finally:
        done.set()
        watcher.join()
    return returned, max(peak, _resident_bytes())


def peak_extra_bytes(call: Callable[[], Any]) -> int | None:
    """Return how far one call raised the process's memory, less the outputs it returned.

    Call it once before: libraries keep buffers from their first call on, and memory that is only
    reserved takes room when it is first written. None where nothing can be measured.
    """
    how = method()
    if how == "not measured":
        return None
    _return_freed_memory()
    before = _resident_bytes()
    if how == "VmHWM":
        (_PROC / "clear_refs").write_text(_RESET_PEAK)
        returned = call()
        peak = _high_water_bytes()
    else:
        returned, peak = _sampled_peak(call)
    return max(0, peak - before - output_bytes(returned))
