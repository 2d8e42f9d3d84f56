"""An op's GPU kernels: CUDA and Triton, each also as tests run it without a GPU.

A CUDA kernel takes the arguments of the C++ kernel of its name, so ``cuda`` and ``cuda-host`` (the
same kernels on the host emulator) are the op's ``cpu`` kernel with another library underneath.
``triton`` and ``triton-interpret`` call the launch function of the op's name in ``ncfast.kernels``;
it is imported when a call first needs it: Triton is optional, and takes a second to import.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch

from .. import dispatch, native_cuda
from ..dispatch import Kernel

# Triton decides when a kernel is defined, so what the variable says later does not count.
INTERPRET = os.environ.get("TRITON_INTERPRET", "0") == "1"

# Arguments that are float64 in every precision; any other of that dtype asks for float64 sums.
ALWAYS_FLOAT64 = frozenset({"m2", "scatter", "weights", "grad", "stats", "variances", "edges"})

Accepts = Callable[..., str]


def register_gpu_kernels(
    op: str, names: tuple[str, ...], accepts: Accepts, forward: Callable[..., Any]
) -> None:
    """Register the GPU kernels there are of an op's name.

    ``accepts`` says what is wrong with the shapes and dtypes of a call, whatever the backend;
    ``forward`` allocates outputs and calls the compiled kernel of the op's name.
    """
    for backend, device in (("cuda", "cuda"), ("cuda-host", "cpu")):
        absent = functools.partial(native_cuda.missing, backend, op)
        serves = functools.partial(native_cuda.run, backend, forward)
        _add(op, backend, device, names, absent, accepts=accepts, forward=serves)
    if importlib.util.find_spec(f"ncfast.kernels.{op.removesuffix('_backward')}") is not None:
        for backend, device, interpret in (
            ("triton", "cuda", False),
            ("triton-interpret", "cpu", True),
        ):
            absent = functools.partial(_no_triton, interpret)
            _add(
                op,
                backend,
                device,
                names,
                absent,
                accepts=accepts,
                forward=functools.partial(_launch, op),
            )


def _add(
    op: str,
    backend: str,
    device: str,
    names: tuple[str, ...],
    absent: Callable[[], str],
    accepts: Accepts,
    forward: Callable[..., Any],
) -> None:
    def reason(*args: Any) -> str:
        return absent() or _too_wide(names, args) or accepts(*args)

    dispatch.register(op, Kernel(backend, (device,), reason, forward))


def _too_wide(names: tuple[str, ...], args: tuple[Any, ...]) -> str:
    for name, value in zip(names, args, strict=True):
        if name in ALWAYS_FLOAT64 or not isinstance(value, torch.Tensor):
            continue
        if value.dtype == torch.float64:
            return f"{name} is float64; the kernels for GPUs keep sums in float32"
    return ""


def _no_triton(interpret: bool) -> str:
    """Return why this process cannot run kernels in one of the two ways, or an empty string."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if interpret and not INTERPRET:
        return "TRITON_INTERPRET=1 was not set when ncfast was imported"
    if INTERPRET and not interpret:
        return "TRITON_INTERPRET=1 was set when ncfast was imported: kernels run on the CPU"
    return ""


def _launch(op: str, *args: Any) -> Any:
    return _launch_function(op)(*args)


@functools.cache
def _launch_function(op: str) -> Callable[..., Any]:
    if INTERPRET:
        importlib.import_module("ncfast.kernels.interpreter").install()
    module = importlib.import_module(f"ncfast.kernels.{op.removesuffix('_backward')}")
    return getattr(module, op)
