"""Loads the compiled CUDA kernels, on a GPU or on the host emulator, and reads their errors.

The two libraries hold the same kernels, under ``torch.ops.ncfast_native_cuda`` and
``torch.ops.ncfast_native_cuda_host``. The emulator's is built for tests (csrc/build_cuda.py); the
environment variable ``NCFAST_CUDA_HOST_LIBRARY`` names it where it is not installed.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import device_errors, native
from .errors import DataError

__all__ = ["describe", "missing", "pending_error", "run"]

NAMESPACES = {"cuda": "ncfast_native_cuda", "cuda-host": "ncfast_native_cuda_host"}
# What a record can say, in the order of enum ErrorKind, csrc/cuda/device_errors.cuh; 0 is nothing.
ERROR_KINDS = (
    "bad label",
    "bad index",
    "double index",
    "bad weight",
    "not finite",
    "not finite other",
    "not finite bias",
    "bad edges",
    "overflow",
)
_RECORD_WORDS = 6
_records: dict[torch.device, torch.Tensor] = {}
_called: list[str] = []  # the ops that were; a record names one by its place


def _library_path(backend: str) -> Path:
    given = os.environ.get("NCFAST_CUDA_HOST_LIBRARY")
    if backend == "cuda-host" and given:
        return Path(given)
    return native._FOLDER / f"libncfast_{backend.replace('-', '_')}.so"


@functools.lru_cache(maxsize=2)
def _load(backend: str) -> str:
    """Load a library; return why it cannot be, or an empty string."""
    path = _library_path(backend)
    if not path.exists():
        if backend == "cuda-host":
            return "the host emulator's library is not built: it is for tests only"
        note = path.with_name("build_cuda.txt")
        why = note.read_text(encoding="utf-8").strip() if note.exists() else "it was never built"
        return f"the CUDA library is not installed: {why}"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"{path.name} cannot be loaded with torch {torch.__version__}: {error}"
    return ""


def missing(backend: str, name: str) -> str:
    """Return why a kernel cannot be called, or an empty string."""
    if reason := _load(backend):
        return reason
    if not hasattr(getattr(torch.ops, NAMESPACES[backend]), name):
        return f"the installed CUDA library has no {name}"
    return ""


def describe() -> dict[str, str]:
    """Describe both libraries: a path, or why there is none.

    >>> sorted(describe())
    ['cuda', 'cuda-host']
    """
    return {name: _load(name) or str(_library_path(name)) for name in NAMESPACES}


def _record(device: torch.device) -> torch.Tensor:
    if device not in _records:
        _records[device] = torch.zeros(_RECORD_WORDS, dtype=torch.int64, device=device)
    return _records[device]


def number_of(op: str) -> int:
    """Return the number that a record names an op by.

    >>> number_of("alignment") == number_of("alignment")
    True
    """
    if op not in _called:
        _called.append(op)
    return _called.index(op)


def _call(backend: str, name: str, *args: Any) -> None:
    device = next(arg.device for arg in args if isinstance(arg, torch.Tensor))
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    getattr(getattr(torch.ops, NAMESPACES[backend]), name)(
        *args, _record(device), stream, number_of(name)
    )
    if device.type == "cpu" and (found := pending_error(device)):
        raise DataError(found)


def run(backend: str, forward: Callable[..., Any], *args: Any) -> Any:
    """Run an op's row for compiled kernels with the CUDA kernels in the place of the CPU's.

    On the CPU, bad values raise at once. On a GPU nothing waits for the device: ``pending_error``
    returns, later, what the first op that met bad values left in the record.
    """
    with native.calls_go_to(functools.partial(_call, backend)):
        return forward(*args)


def pending_error(device: torch.device) -> str:
    """Return the first error of a device's kernels since the last call, or an empty string.

    Waits for the device. Running state was left alone by the op that met bad values; results that
    were computed from them since are worthless.
    """
    if device not in _records:
        return ""
    words = _record(device).tolist()
    if words[0] == 0:
        return ""
    _record(device).zero_()
    kind, op, row, column, limit, bits = words
    value, name = _double(bits), _called[op]
    pairs = name.startswith(("pair_stats", "alignment"))
    features, other = "points" if pairs else "x", "means" if "center" in name else "head_weight"
    row_bias = "center" if pairs else "head_bias"
    weight = "variance" if pairs else "weight"
    finite = f"is {_plain(value)}; expected finite values"
    return (
        f"{name}: "
        + {
            "bad label": f"y[{row}] is {column}; expected a class in [0, {limit}) or "
            "-100 for a token to ignore",
            "bad index": f"index[{row}] is {column}; expected a row in [0, {limit})",
            "double index": f"index[{row}] is {column} for the second time; expected distinct rows",
            "bad weight": f"{weight}s[{row}] is {_plain(value)}; expected a finite {weight} of "
            "at least 0",
            "not finite": f"{features}[{row}, {column}] {finite}",
            "not finite other": f"{other}[{row}, {column}] {finite}",
            "not finite bias": f"{row_bias}[{row}] {finite}",
            "bad edges": f"edges[{row}] goes from {value:g} to {_double(column):g}; expected "
            "finite ascending edges of bins of one width",
            "overflow": "points less center overflows; expected finite differences"
            if pairs
            else f"scores overflow; expected finite ones: scale {features} or {other} down",
        }[ERROR_KINDS[kind - 1]]
    )


def _pending_errors() -> list[str]:
    found = {device: pending_error(device) for device in _records}
    return [f"{text} (found on {device})" for device, text in found.items() if text]


device_errors.add_source(_pending_errors)


def _double(bits: int) -> float:
    return struct.unpack("<d", struct.pack("<q", bits))[0]


def _plain(value: float) -> str:
    return "nan" if value != value else f"{value:g}"
