"""Samples of the ops that choose a class for every token."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .tensors import Sample, matrix, wide_dtype

__all__ = ["linear_argmax", "nearest_center"]

# name: tokens, classes, width, layout, bias, index
_DECISIONS: dict[str, tuple[int, int, int, str, bool, str]] = {
    "primes": (61, 23, 13, "contiguous", True, ""),
    "no-bias": (61, 23, 13, "contiguous", False, ""),
    "no-tokens": (0, 5, 3, "contiguous", True, ""),
    "one-token": (1, 23, 11, "contiguous", True, ""),
    "two-classes": (31, 2, 7, "contiguous", True, ""),
    "index-shuffled": (47, 61, 11, "contiguous", True, "shuffled"),
    "index-strided": (47, 61, 11, "transposed", True, "strided"),
    "transposed": (47, 31, 19, "transposed", True, ""),
    "sliced": (47, 31, 19, "sliced", True, ""),
    "expanded-columns": (29, 17, 13, "expanded-columns", False, ""),
    "many-tiles": (1103, 787, 17, "contiguous", True, ""),
    "width-1": (29, 7, 1, "contiguous", True, ""),
    "width-7": (29, 13, 7, "contiguous", True, ""),
    "width-8": (29, 13, 8, "contiguous", True, ""),
    "width-129": (29, 13, 129, "contiguous", True, ""),
    "packed": (29, 13, 136, "contiguous", True, ""),  # asynchronous copies, five steps of them
    "packed-tiles": (29, 401, 40, "contiguous", True, ""),
}


def _decision(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the tokens, the classes, a bias and an index of a row of the table."""
    tokens, classes, width, layout, biased, pattern = _DECISIONS[name]
    generator = torch.Generator().manual_seed(13)
    order = torch.randperm(classes, generator=generator)
    index = {"": None, "shuffled": order[: classes // 3], "strided": order[::3]}[pattern]
    bias = matrix(classes, 1, wide_dtype(dtype), seed=14)[:, 0] if biased else None
    rows = matrix(classes, width, dtype, layout, seed=16)
    return matrix(tokens, width, dtype, layout, seed=15), rows, bias, index


def linear_argmax(dtype: torch.dtype) -> Iterator[Sample]:
    for name in _DECISIONS:
        yield Sample(name, _decision(name, dtype))


def nearest_center(dtype: torch.dtype) -> Iterator[Sample]:
    for name in _DECISIONS:
        x, means, _, index = _decision(name, dtype)
        yield Sample(name, (x, means, index))
    if dtype != torch.float64:
        x, means, _, _ = _decision("primes", dtype)
        yield Sample("means-float64", (x, means.double(), None))
