"""Samples of the ops on class means, one by one and in pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .tensors import Sample, matrix, wide_dtype
from .tokens import wide_tokens

__all__ = ["alignment", "between_class_scatter", "pair_stats"]

# name: classes, width, layout, center, index
POINTS: dict[str, tuple[int, int, str, str, str]] = {
    "primes": (23, 13, "contiguous", "classes", ""),
    "center-none": (23, 13, "contiguous", "none", ""),
    "center-tensor": (23, 13, "contiguous", "tensor", ""),
    "index-shuffled": (47, 11, "contiguous", "classes", "shuffled"),
    "index-empty": (23, 11, "contiguous", "classes", "empty"),
    "index-strided": (47, 11, "transposed", "tensor", "strided"),
    "no-rows": (0, 5, "contiguous", "classes", ""),
    "one-row": (1, 11, "contiguous", "none", ""),
    "many-tiles": (4999, 37, "contiguous", "tensor", ""),
    "transposed": (31, 19, "transposed", "classes", ""),
    "expanded-rows": (17, 13, "expanded-rows", "none", ""),
    "expanded-columns": (17, 13, "expanded-columns", "classes", ""),
    "sliced": (31, 23, "sliced", "tensor", ""),
    "width-0": (13, 0, "contiguous", "none", ""),
    "width-1": (23, 1, "contiguous", "tensor", ""),
    "width-1-transposed": (23, 1, "transposed", "tensor", ""),
    "width-7": (23, 7, "contiguous", "tensor", ""),
    "width-8": (23, 8, "contiguous", "tensor", ""),
    "width-33": (29, 33, "contiguous", "classes", ""),
    "width-129": (29, 129, "contiguous", "tensor", ""),
    "packed": (29, 136, "contiguous", "tensor", ""),  # asynchronous copies, five steps of them
}


def points_of(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor | str, Tensor | None]:
    """Return the points, the center and the index of a row of the table."""
    rows, width, layout, center, pattern = POINTS[name]
    generator = torch.Generator().manual_seed(6)
    index = {
        "": None,
        "shuffled": torch.randperm(rows, generator=generator)[: rows // 3],
        "strided": torch.randperm(rows, generator=generator)[::3],
        "empty": torch.zeros(0, dtype=torch.int64),
    }[pattern]
    center_row = matrix(1, width, wide_dtype(dtype), seed=7)[0] if center == "tensor" else center
    return matrix(rows, width, dtype, layout, seed=8), center_row, index


def between_class_scatter(dtype: torch.dtype) -> Iterator[Sample]:
    for name in POINTS:
        means, center, index = points_of(name, dtype)
        yield Sample(name, (means, None, center, index))
        count = means.shape[0] if index is None else index.shape[0]
        weights = matrix(count, 1, torch.float64, seed=9)[:, 0].abs()
        weights[::5] = 0
        yield Sample(f"{name}-weighted", (means, weights.to(wide_dtype(dtype)), center, index))
    wide, _, _ = wide_tokens(dtype)
    yield Sample("width-136", (wide, None, "classes", torch.arange(36, 0, -2)))


def alignment(dtype: torch.dtype) -> Iterator[Sample]:
    for name in POINTS:
        points, center, index = points_of(name, dtype)
        rows, width = points.shape
        head_weight = matrix(rows, width, dtype, POINTS[name][2], seed=10)
        yield Sample(name, (head_weight, points, center, index))
    points, _, _ = points_of("primes", dtype)
    head_weight = matrix(23, 13, dtype, seed=10)
    yield Sample("head-float32", (head_weight.to(wide_dtype(dtype)), points, "classes", None))
    zeros = head_weight.clone(), points.clone()
    zeros[0][3], zeros[1][5] = 0, 0
    yield Sample("zero-rows", (*zeros, "none", None))


_ALL_KINDS = ("cdnv", "cdnv", "log_distance", "cosine", "log_distance_raw", "riesz")
_ALL_TARGETS = (0.0, 0.1, -0.25, -1 / 22, 0.5, 1.0)


def _pairs_of(
    points: Tensor, center: Tensor | str, index: Tensor | None, edges: Tensor | None = None
) -> tuple[Any, ...]:
    spread = matrix(points.shape[0], 1, wide_dtype(points.dtype), seed=11)[:, 0].square() + 0.25
    powers = (1, 2, 1, 1, 1, max(points.shape[1] - 2, 1))
    return points, spread, center, _ALL_KINDS, powers, _ALL_TARGETS, index, edges


def pair_stats(dtype: torch.dtype) -> Iterator[Sample]:
    for name in POINTS:
        if name in ("many-tiles", "expanded-columns"):
            continue  # millions of pairs; parallel points, whose directions differ by rounding
        points, center, index = points_of(name, dtype)
        if points.shape[1] == 1:
            points += 3 * torch.arange(len(points))[:, None]  # or some pairs drown all others
        yield Sample(name, _pairs_of(points, center, index))
    points, center, _ = points_of("primes", dtype)
    yield Sample("two-tiles", _pairs_of(matrix(577, 17, dtype, seed=12), "classes", None))
    yield Sample("packed-tiles", _pairs_of(matrix(136, 40, dtype, seed=12), "classes", None))
    yield Sample("cdnv-only", (points, *_pairs_of(points, center, None)[1:3], ("cdnv",)))
    parallel, center_row, _ = points_of("expanded-columns", dtype)
    kinds = ("cosine", "log_distance_raw")
    yield Sample("expanded-columns", (parallel, None, center_row, kinds))
    low = torch.tensor([0.0, 0.0, -1.0, -0.75, -2.0, -6.0], dtype=torch.float64)
    edges = low[:, None] + torch.linspace(0, 1.1875, 20, dtype=torch.float64)
    yield Sample("histogram", _pairs_of(points, center, None, edges))
    # As few bins as small builds of the emulator keep in shared memory; "histogram" has more.
    few = [given[:3] for given in (_ALL_KINDS, (1, 2, 1), _ALL_TARGETS)]
    spread = _pairs_of(points, center, None)[1]
    yield Sample("histogram-of-few", (points, spread, center, *few, None, edges[:3]))
    zeros = points.clone()
    zeros[3], zeros[5] = 0, 0
    yield Sample("zero-rows", _pairs_of(zeros, "none", None))
    copies = points.clone()
    copies[7], copies[11] = copies[2], copies[2]
    yield Sample("zero-distance", _pairs_of(copies, "classes", None))
