"""What ops check in a call's metadata; each returns the reason, or an empty string."""

from __future__ import annotations

import torch

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def accumulation_dtype(*tensors: torch.Tensor | None) -> torch.dtype:
    """Return the dtype sums are kept in: float64 if any input is, else float32."""
    double = any(t is not None and t.dtype == torch.float64 for t in tensors)
    return torch.float64 if double else torch.float32


def not_accumulator(**tensors: torch.Tensor) -> str:
    """Return which tensor has a dtype that sums are not kept in."""
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.float64):
            return f"{name} is {tensor.dtype}, not float32 or float64"
    return ""


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


def not_shape(*expected: tuple[str, torch.Tensor | None, tuple[int, ...]]) -> str:
    """Return which tensor has another shape, or an empty string.

    Kernels trust shapes. Functional has checked them; a raw ``torch.ops.ncfast`` call has not.
    """
    for name, tensor, shape in expected:
        if tensor is not None and tuple(tensor.shape) != shape:
            return f"{name} is {tuple(tensor.shape)}, not {shape}"
    return ""


def not_dtype(dtype: torch.dtype, **tensors: torch.Tensor | None) -> str:
    """Return which tensor has another dtype, or an empty string."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype != dtype:
            return f"{name} is {tensor.dtype}, not {dtype}"
    return ""
