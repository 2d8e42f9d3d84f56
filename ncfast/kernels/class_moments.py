"""Counts, means and spreads of classes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import native
from .labels import class_keys, segments_of
from .launching import Configuration, launch
from .segments import segment_moments
from .tiles import load_tile

__all__ = ["class_moments", "class_moments_backward"]

BACKWARD = (
    Configuration("8 x 512", 4, 1, {"ROWS": 8, "COLUMNS": 512}),
    Configuration("16 x 256", 4, 1, {"ROWS": 16, "COLUMNS": 256}),
    Configuration("4 x 1024", 4, 1, {"ROWS": 4, "COLUMNS": 1024}),
)


def class_moments(x: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return counts [V], means [V, D] and m2 [V]; absent classes get zeros."""
    segments = segments_of(class_keys("class_moments", y, num_classes), num_classes)
    counts = native.allocate((num_classes,), torch.int64, x.device)
    counts.copy_(segments.counts)
    means = native.allocate((num_classes, x.shape[1]), torch.float32, x.device)
    m2 = native.allocate((num_classes,), torch.float32, x.device)
    segment_moments("class_moments", x, segments, means.zero_(), m2.zero_())
    return counts, means, m2


@triton.jit
def _class_moments_backward(
    grad_means, stride_grad_n, stride_grad_d, grad_m2, stride_m2, x, stride_n, stride_d, keys,
    counts, means, grad_x, num_classes, tokens, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = rows < tokens
    c = tl.load(keys + rows, mask=inside, other=num_classes).to(tl.int64)
    valid = c < num_classes
    grad = tl.zeros((ROWS, COLUMNS), tl.float32)
    if grad_means is not None:
        upstream = load_tile(grad_means, stride_grad_n, stride_grad_d, c, valid, columns, width)
        count = tl.load(counts + c, mask=valid, other=1).to(tl.float32)
        grad += upstream / count[:, None]
    if grad_m2 is not None:
        weight = 2 * tl.load(grad_m2 + c * stride_m2, mask=valid, other=0.0)
        tile = load_tile(x, stride_n, stride_d, rows, valid, columns, width)
        mean = load_tile(means, width, 1, c, valid, columns, width)
        grad += weight[:, None] * (tile - mean)
    mask = inside[:, None] & (columns[None, :] < width)
    places = rows[:, None] * width + columns[None, :]
    tl.store(grad_x + places, grad.to(grad_x.dtype.element_ty), mask=mask)


def class_moments_backward(
    grad_means: Tensor | None,
    grad_m2: Tensor | None,
    x: Tensor,
    y: Tensor,
    counts: Tensor,
    means: Tensor,
) -> Tensor:
    """Return dmean_c/n_c + 2 dm2_c (x_i - mean_c) per token of class c, 0 where ignored."""
    tokens, width = x.shape
    keys = class_keys("class_moments_backward", y, means.shape[0])
    grad_x = native.allocate((tokens, width), x.dtype, x.device)
    launch(
        _class_moments_backward,
        lambda t: (triton.cdiv(tokens, t["ROWS"]), triton.cdiv(width, t["COLUMNS"])),
        BACKWARD,
        *(grad_means, *((0, 0) if grad_means is None else grad_means.stride())),
        *(grad_m2, *((0,) if grad_m2 is None else grad_m2.stride())),
        *(x, *x.stride(), keys, counts.contiguous(), means.contiguous()),
        *(grad_x, means.shape[0], tokens, width),
        key=("width",),
    )
    return grad_x
