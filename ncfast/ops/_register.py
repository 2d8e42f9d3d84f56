"""Registers ops under ``torch.ops.ncfast``: schema, fake, autograd, and dispatch to a backend."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from .. import dispatch, native
from ..dispatch import Row
from ._cuda_rows import add_cuda_rows
from ._triton_rows import add_triton_rows

NAMESPACE = "ncfast"
LIBRARY = torch.library.Library(NAMESPACE, "DEF")

REFERENCE_DEVICES = ("cpu", "cuda", "xpu", "mps")


def define(
    schema: str,
    *,
    fake: Callable[..., Any],
    reference: Callable[..., Any],
    cpu: Callable[..., Any],
    cpu_accepts: Callable[..., str],
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> None:
    """Register one op: its schema (``"name(Tensor x, ...) -> ..."``), shapes, rows and gradient.

    Autograd sits above dispatch, so any forward backend pairs with any backward backend.
    """
    name = schema.partition("(")[0]
    LIBRARY.define(schema)
    for key in ("CPU", "CUDA"):
        LIBRARY.impl(name, functools.partial(dispatch.call, name), key)
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=LIBRARY)
    if backward is not None:
        torch.library.register_autograd(
            f"{NAMESPACE}::{name}", backward, setup_context=setup_context, lib=LIBRARY
        )
    dispatch.add_row(
        name,
        Row("cpu", ("cpu",), lambda *args: native.missing(name) or cpu_accepts(*args), cpu),
    )
    add_cuda_rows(name, _argument_names(name), cpu_accepts, cpu)
    add_triton_rows(name, _argument_names(name), cpu_accepts)
    dispatch.add_row(name, Row("reference", REFERENCE_DEVICES, lambda *args: "", reference))


def _argument_names(name: str) -> list[str]:
    return [a.name for a in getattr(torch.ops.ncfast, name).default._schema.arguments]


def no_double_backward(op: str) -> dict[str, Callable[..., Any]]:
    """Return the autograd of a backward op: it raises, rather than be wrong."""

    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(
            f"{op}: second derivatives are not implemented; call backward without create_graph"
        )

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        return None

    return {"setup_context": setup_context, "backward": backward}


def accumulation_dtype(*tensors: torch.Tensor) -> torch.dtype:
    """Return the dtype sums are kept in: float64 if any input is, else float32."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def unreadable(accumulate: torch.dtype, **tensors: torch.Tensor | None) -> str:
    """Return why rows cannot be read at a precision, or an empty string."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.dtype not in FLOATS:
            return f"{name} is {tensor.dtype}, not a float dtype of 16, 32 or 64 bits"
        if tensor.dtype == torch.float64 and accumulate != torch.float64:
            return f"{name} is float64 while sums are kept in {accumulate}"
    return ""


def not_shape(*wanted: tuple[str, torch.Tensor | None, tuple[int, ...]]) -> str:
    """Return which tensor has another shape, or an empty string.

    Kernels trust shapes. Functional has checked them; a raw ``torch.ops.ncfast`` call has not.
    """
    for name, tensor, shape in wanted:
        if tensor is not None and tuple(tensor.shape) != shape:
            return f"{name} is {tuple(tensor.shape)}, not {shape}"
    return ""


def not_dtype(dtype: torch.dtype, **tensors: torch.Tensor | None) -> str:
    """Return which tensor has another dtype, or an empty string."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype != dtype:
            return f"{name} is {tensor.dtype}, not {dtype}"
    return ""
