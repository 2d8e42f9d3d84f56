"""Peak memory of a call, as the operating system saw it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _kib(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise OSError(f"{_STATUS} has no {field}")


def peak_extra_mib(function: Callable[[], object]) -> float | None:
    """Return how far a call raised the process's memory above what it held before, in MiB.

    Outputs count. None where the kernel does not let a process reset its peak.
    """
    gc.collect()
    try:
        before = _kib("VmRSS")
        _CLEAR.write_text("5")  # resets VmHWM to VmRSS
        result = function()
        peak = _kib("VmHWM")
    except OSError:
        return None
    del result
    return max(0, peak - before) / 1024
