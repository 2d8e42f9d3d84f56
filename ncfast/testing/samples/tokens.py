"""Samples of the ops on tokens and their classes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ...reference.checks import IGNORE_INDEX
from .tensors import Sample, matrix, tiny_tokens, wide_dtype

__all__ = [
    "TOKENS",
    "accumulate_class_moments_",
    "class_moments",
    "tokens_of",
    "wide_tokens",
    "within_class_scatter",
]

# name: tokens, width, classes, layout of x, labels
TOKENS: dict[str, tuple[int, int, int, str, str]] = {
    "primes": (61, 13, 7, "contiguous", "mixed"),
    "more-classes-than-tokens": (31, 29, 101, "contiguous", "mixed"),
    "no-tokens": (0, 5, 3, "contiguous", "mixed"),
    "one-token": (1, 11, 3, "contiguous", "last"),
    "one-class": (37, 11, 1, "contiguous", "mixed"),
    "all-ignored": (17, 11, 3, "contiguous", "ignored"),
    "ignored-nan": (43, 11, 5, "contiguous", "nan"),
    "transposed": (47, 19, 5, "transposed", "mixed"),
    "expanded-rows": (41, 17, 5, "expanded-rows", "mixed"),
    "expanded-columns": (41, 17, 5, "expanded-columns", "mixed"),
    "sliced": (53, 23, 5, "sliced", "mixed"),
    "strided-labels": (53, 11, 5, "contiguous", "strided"),
    "long-class": (1103, 33, 11, "contiguous", "long"),
    "long-class-transposed": (1103, 7, 3, "transposed", "long"),
    "many-units": (4999, 37, 257, "contiguous", "long"),
    "width-0": (13, 0, 3, "contiguous", "mixed"),
    "width-1": (29, 1, 5, "contiguous", "mixed"),
    "width-1-transposed": (29, 1, 5, "transposed", "mixed"),
    "width-7": (29, 7, 5, "contiguous", "mixed"),
    "width-8": (29, 8, 5, "contiguous", "mixed"),
    "width-129": (59, 129, 5, "contiguous", "mixed"),
}


def tokens_of(name: str, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, int]:
    """Return the features, labels and number of classes of a row of the table."""
    n, width, classes, layout, labels = TOKENS[name]
    x = matrix(n, width, dtype, layout, seed)
    _, y = tiny_tokens(n, 1, classes, seed=seed + 1)
    if labels == "last":
        y = torch.full((n,), classes - 1)
    elif labels == "ignored":
        y = torch.full((n,), IGNORE_INDEX)
    elif labels == "nan":
        x[y == IGNORE_INDEX] = math.nan
    elif labels == "strided":
        y = torch.stack([y, torch.full((n,), 10**6), y + 10**6], 1).flatten()[::3]
    elif labels == "long":
        y[:1087] = 1  # two segments of 512 and 61 tokens more
        y[: 2 * 13 : 2] = IGNORE_INDEX
    return x, y, classes


def wide_tokens(dtype: torch.dtype) -> tuple[Tensor, Tensor, int]:
    """Return features, labels and classes wide and whole enough for the scatters' large tiles."""
    return matrix(37, 136, dtype, seed=17), tiny_tokens(37, 1, 5, seed=18)[1], 5


def class_moments(dtype: torch.dtype) -> Iterator[Sample]:
    for name in TOKENS:
        yield Sample(name, tokens_of(name, dtype))


def within_class_scatter(dtype: torch.dtype) -> Iterator[Sample]:
    for name in TOKENS:
        x, y, classes = tokens_of(name, dtype)
        layout = TOKENS[name][3]
        means = matrix(classes, x.shape[1], wide_dtype(dtype), layout, seed=2)
        yield Sample(name, (x, y, means))
    x, y, classes = wide_tokens(dtype)
    yield Sample("width-136", (x, y, matrix(classes, 136, wide_dtype(dtype), seed=2)))
    if dtype != torch.float64:
        x, y, classes = tokens_of("primes", dtype)
        yield Sample("means-float64", (x, y, matrix(classes, 13, torch.float64, seed=2)))


def _state(classes: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return running moments of which every third class is still empty."""
    generator = torch.Generator().manual_seed(3)
    counts = torch.randint(1, 40, (classes,), generator=generator)
    counts[::3] = 0
    means = matrix(classes, width, dtype, seed=4) * (counts > 0)[:, None]
    m2 = torch.rand(classes, generator=generator, dtype=torch.float64) * counts
    root = matrix(width, width, torch.float64, seed=5)
    return counts, means, m2, root @ root.T


def accumulate_class_moments_(dtype: torch.dtype) -> Iterator[Sample]:
    for name in TOKENS:
        x, y, classes = tokens_of(name, dtype)
        counts, means, m2, scatter = _state(classes, x.shape[1], wide_dtype(dtype))
        yield Sample(name, (counts, means, m2, None, x, y))
        yield Sample(f"{name}-scatter", (counts, means, m2, scatter, x, y))
    x, y, classes = wide_tokens(dtype)
    yield Sample("width-136-scatter", (*_state(classes, 136, wide_dtype(dtype)), x, y))
    if dtype != torch.float64:
        x, y, classes = tokens_of("long-class", dtype)
        counts, means, m2, scatter = _state(classes, x.shape[1], torch.float64)
        yield Sample("state-float64", (counts, means, m2, scatter, x, y))
