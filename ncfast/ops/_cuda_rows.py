"""The rows ``cuda`` and ``cuda-host`` of an op: the same kernels on a GPU and on the host emulator.

A CUDA kernel takes the arguments of the C++ kernel of its name, so both rows are the op's ``cpu``
row with the kernels swapped underneath.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from .. import dispatch, native_cuda
from ..dispatch import Row

# Arguments that are float64 in every precision; any other of that dtype asks for float64 sums.
ALWAYS_FLOAT64 = frozenset({"m2", "scatter", "weights", "grad", "variances", "edges"})


def _too_wide(names: list[str], args: tuple[Any, ...]) -> str:
    for name, value in zip(names, args, strict=False):
        if name in ALWAYS_FLOAT64 or not isinstance(value, torch.Tensor):
            continue
        if value.dtype == torch.float64:
            return f"{name} is float64; the CUDA kernels keep sums in float32"
    return ""


def add_cuda_rows(
    op: str, names: list[str], accepts: Callable[..., str], forward: Callable[..., Any]
) -> None:
    """Give an op its two rows, if there is a kernel of its name."""
    if op not in native_cuda.OPS:
        return

    def refuses(backend: str, *args: Any) -> str:
        return native_cuda.missing(backend, op) or _too_wide(names, args) or accepts(*args)

    for backend, device in (("cuda", "cuda"), ("cuda-host", "cpu")):
        serves = functools.partial(native_cuda.run, backend, forward)
        dispatch.add_row(op, Row(backend, (device,), functools.partial(refuses, backend), serves))
