"""Tensors and class ids as callers give them: torch, NumPy, or a sentence saying what is wrong."""

from __future__ import annotations

import warnings
from typing import Any

import numpy
import torch
from torch import Tensor

from .errors import DataError

__all__ = ["as_ids", "as_labels", "as_tensor"]

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def as_tensor(op: str, name: str, value: Any) -> Tensor:
    """Return a tensor as it is, or a NumPy array as the tensor that shares its memory.

    Raises:
        TypeError: It is something else, or an array of a dtype that torch lacks.

    >>> as_tensor("op", "x", numpy.ones((2, 3), dtype="float32")).shape
    torch.Size([2, 3])
    """
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, numpy.ndarray):
        raise TypeError(
            f"{op}: {name} is {type(value).__name__}; expected a torch.Tensor or a numpy.ndarray"
        )
    try:
        with warnings.catch_warnings():  # that it cannot be written to: nothing here writes to it
            warnings.simplefilter("ignore")
            return torch.from_numpy(value if min(value.strides, default=0) >= 0 else value.copy())
    except (TypeError, ValueError):
        raise TypeError(
            f"{op}: {name} is a numpy array of {value.dtype}; expected a dtype that torch has, in "
            "this machine's byte order"
        ) from None


def as_labels(op: str, value: Any) -> Tensor:
    """Return labels as int64; whole numbers of other widths are the same labels."""
    labels = as_tensor(op, "y", value)
    if labels.dtype not in _WHOLE:
        raise TypeError(f"{op}: y is {labels.dtype}; expected int64, or narrower whole numbers")
    return labels.long()


def as_ids(op: str, name: str, ids: Any, device: torch.device | str) -> Tensor:
    """Return class ids [K] int64, at least one; a mask or fractions are no ids."""
    if isinstance(ids, str) or not hasattr(ids, "__iter__"):
        raise TypeError(f"{op}: {name} is {ids!r}; expected a sequence of whole numbers")
    values = ids if hasattr(ids, "dtype") else list(ids)
    if isinstance(values, list) and any(isinstance(value, str) for value in values):
        raise TypeError(
            f"{op}: {name} holds words; expected class ids, of a word set to_classes(tokenizer).ids"
        )
    # torch reads True among whole numbers as the class 1.
    mixed = isinstance(values, list) and any(isinstance(value, bool) for value in values)
    try:
        found = torch.as_tensor(values, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{op}: {name} is {type(ids).__name__}: {error}") from None
    if not found.numel():
        raise DataError(f"{op}: {name} is empty; expected at least one class id")
    if found.dtype not in _WHOLE or mixed:
        kind = torch.bool if mixed else found.dtype
        hint = "; of a mask, give mask.nonzero()[:, 0]" if kind == torch.bool else ""
        raise TypeError(f"{op}: {name} holds {kind}; expected whole numbers{hint}")
    if found.ndim != 1:
        raise TypeError(f"{op}: {name} is of shape {tuple(found.shape)}; expected [K]")
    return found.long()
