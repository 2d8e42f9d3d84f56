"""The rows ``triton`` and ``triton-interpret`` of an op: one launch function, two kinds of tensor.

By convention ``ncfast.kernels.OP`` holds the launch functions OP and OP_backward. It is imported
when a call first needs it: Triton is optional, and takes a second to import.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch

from .. import dispatch
from ..dispatch import Row

# Triton decides when a kernel is defined, so what the variable says later does not count.
INTERPRET = os.environ.get("TRITON_INTERPRET", "0") == "1"

# Arguments that are float64 in every precision; any other of that dtype asks for float64 sums.
ALWAYS_FLOAT64 = frozenset({"m2", "scatter", "weights", "grad", "variances", "edges"})


def _unavailable(interpret: bool) -> str:
    """Return why this process cannot run kernels in one of the two ways, or an empty string."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if interpret and not INTERPRET:
        return "TRITON_INTERPRET=1 was not set when ncfast was imported"
    if INTERPRET and not interpret:
        return "TRITON_INTERPRET=1 was set when ncfast was imported: kernels run on the CPU"
    return ""


def _too_wide(names: list[str], args: tuple[Any, ...]) -> str:
    for name, value in zip(names, args, strict=True):
        if name in ALWAYS_FLOAT64 or not isinstance(value, torch.Tensor):
            continue
        if value.dtype == torch.float64:
            return f"{name} is float64; the kernels keep sums in float32"
    return ""


@functools.cache
def _launch_function(op: str) -> Callable[..., Any]:
    if INTERPRET:
        importlib.import_module("ncfast.kernels.interpreter").install()
    module = importlib.import_module(f"ncfast.kernels.{op.removesuffix('_backward')}")
    return getattr(module, op)


def add_triton_rows(op: str, names: list[str], accepts: Callable[..., str]) -> None:
    """Give an op its two rows, if there are kernels of its name.

    ``accepts`` says what is wrong with the shapes and dtypes of a call, whatever the backend.
    """
    if importlib.util.find_spec(f"ncfast.kernels.{op.removesuffix('_backward')}") is None:
        return

    def refuses(interpret: bool, *args: Any) -> str:
        return _unavailable(interpret) or _too_wide(names, args) or accepts(*args)

    def forward(*args: Any) -> Any:
        return _launch_function(op)(*args)

    for backend, device, interpret in (
        ("triton", "cuda", False),
        ("triton-interpret", "cpu", True),
    ):
        dispatch.add_row(
            op, Row(backend, (device,), functools.partial(refuses, interpret), forward)
        )
