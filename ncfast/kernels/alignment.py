"""Cosine of each head row with its centred point."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import native
from .labels import check_index
from .launching import Configuration, launch
from .tiles import load_tile, load_vector

__all__ = ["alignment", "alignment_backward"]

OP = "alignment"
FORWARD = (
    Configuration("4 x 512", 4, 2, {"ROWS": 4, "COLUMNS": 512}),
    Configuration("8 x 256", 4, 3, {"ROWS": 8, "COLUMNS": 256}),
    Configuration("2 x 1024", 4, 2, {"ROWS": 2, "COLUMNS": 1024}),
)
# Rows whose gradients one program adds up for the center: a 16th of them are stored besides.
BACKWARD = (Configuration("16 x 256", 8, 1, {"ROWS": 16, "COLUMNS": 256}),)


@triton.jit
def _places(index, count, rows_of_points, ROWS: tl.constexpr):
    """Return a program's entries, their rows, and which there are."""
    k = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    kept = k < count
    rows = k
    if index is not None:
        rows = tl.load(index + k, mask=kept, other=0)
        kept = kept & (rows >= 0) & (rows < rows_of_points)
    return k, rows, kept


@triton.jit
def _pair(
    head,
    stride_head_n,
    stride_head_d,
    points,
    stride_n,
    stride_d,
    center,
    stride_center,
    rows,
    kept,
    columns,
    width,
):
    """Load the head rows and the centred points of a tile."""
    w = load_tile(head, stride_head_n, stride_head_d, rows, kept, columns, width)
    q = load_tile(points, stride_n, stride_d, rows, kept, columns, width)
    middle = load_vector(center, stride_center, columns, width)
    return w, tl.where(kept[:, None], q - middle[None, :], 0.0)


@triton.jit
def _cosines(
    head,
    stride_head_n,
    stride_head_d,
    points,
    stride_n,
    stride_d,
    center,
    stride_center,
    rows,
    kept,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Return the inverse norms of head rows and points, 0 where undefined, and their cosine."""
    ww = tl.zeros((ROWS, COLUMNS), tl.float32)
    qq = tl.zeros((ROWS, COLUMNS), tl.float32)
    wq = tl.zeros((ROWS, COLUMNS), tl.float32)
    for d in range(0, width, COLUMNS):
        columns = d + tl.arange(0, COLUMNS)
        w, q = _pair(
            *(head, stride_head_n, stride_head_d, points, stride_n, stride_d),
            *(center, stride_center, rows, kept, columns, width),
        )
        ww += w * w
        qq += q * q
        wq += w * q
    w_norm = tl.sqrt_rn(tl.sum(ww, axis=1))
    q_norm = tl.sqrt_rn(tl.sum(qq, axis=1))
    defined = (w_norm > 0) & (q_norm > 0)
    w_scale = tl.where(defined, 1 / tl.where(defined, w_norm, 1.0), 0.0)
    q_scale = tl.where(defined, 1 / tl.where(defined, q_norm, 1.0), 0.0)
    return w_scale, q_scale, tl.sum(wq, axis=1) * w_scale * q_scale


@triton.jit
def _alignment(
    head,
    stride_head_n,
    stride_head_d,
    points,
    stride_n,
    stride_d,
    center,
    stride_center,
    index,
    cosines,
    count,
    rows_of_points,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    k, rows, kept = _places(index, count, rows_of_points, ROWS)
    _, _, cosine = _cosines(
        *(head, stride_head_n, stride_head_d, points, stride_n, stride_d),
        *(center, stride_center, rows, kept, width, ROWS, COLUMNS),
    )
    tl.store(cosines + k, cosine, mask=k < count)


@triton.jit
def _alignment_backward(
    grad,
    stride_grad,
    head,
    stride_head_n,
    stride_head_d,
    points,
    stride_n,
    stride_d,
    center,
    stride_center,
    index,
    grad_head,
    grad_points,
    partial,
    count,
    rows_of_points,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    k, rows, kept = _places(index, count, rows_of_points, ROWS)
    w_scale, q_scale, cosine = _cosines(
        *(head, stride_head_n, stride_head_d, points, stride_n, stride_d),
        *(center, stride_center, rows, kept, width, ROWS, COLUMNS),
    )
    upstream = tl.load(grad + k * stride_grad, mask=kept, other=0.0)
    for d in range(0, width, COLUMNS):
        columns = d + tl.arange(0, COLUMNS)
        w, q = _pair(
            *(head, stride_head_n, stride_head_d, points, stride_n, stride_d),
            *(center, stride_center, rows, kept, columns, width),
        )
        w *= w_scale[:, None]
        q *= q_scale[:, None]
        places = rows[:, None] * width + columns[None, :]
        mask = kept[:, None] & (columns[None, :] < width)
        if grad_head is not None:
            row = (upstream * w_scale)[:, None] * (q - cosine[:, None] * w)
            tl.store(grad_head + places, row.to(grad_head.dtype.element_ty), mask=mask)
        row = (upstream * q_scale)[:, None] * (w - cosine[:, None] * q)
        if grad_points is not None:
            tl.store(grad_points + places, row.to(grad_points.dtype.element_ty), mask=mask)
        if partial is not None:
            home = partial + tl.program_id(0).to(tl.int64) * width
            tl.store(home + columns, tl.sum(row, axis=0), mask=columns < width)


def alignment(head_weight: Tensor, points: Tensor, center: Tensor, index: Tensor | None) -> Tensor:
    """Return the cosines [K]; 0 where either vector is zero."""
    check_index(OP, index, points.shape[0])
    index = None if index is None else index.contiguous()
    count = points.shape[0] if index is None else index.shape[0]
    cosines = native.allocate((count,), torch.float32, points.device)
    launch(
        _alignment,
        lambda t: (triton.cdiv(count, t["ROWS"]),),
        FORWARD,
        *(head_weight, *head_weight.stride(), points, *points.stride(), center, *center.stride()),
        *(index, cosines, count, *points.shape),
        key=("width",),
    )
    return cosines


def alignment_backward(
    grad: Tensor,
    head_weight: Tensor,
    points: Tensor,
    center: Tensor,
    index: Tensor | None,
    needs_head_weight: bool,
    needs_points: bool,
    needs_center: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (q/|q| - cos w/|w|)/|w| and (w/|w| - cos q/|q|)/|q| per row, times the gradient."""
    check_index(OP, index, points.shape[0])
    index = None if index is None else index.contiguous()
    count, (rows, width) = grad.shape[0], points.shape
    grads = []
    for like, needed in ((head_weight, needs_head_weight), (points, needs_points)):
        shape = (rows, width) if needed else (0, width)
        grads.append(native.allocate(shape, like.dtype, like.device))
        if index is not None:
            grads[-1].zero_()  # rows the index leaves out
    groups = triton.cdiv(count, BACKWARD[0].tiles["ROWS"]) if needs_center else 0
    partial = native.allocate((groups, width), torch.float32, points.device)
    launch(
        _alignment_backward,
        lambda t: (triton.cdiv(count, t["ROWS"]),),
        BACKWARD,
        *(grad, *grad.stride(), head_weight, *head_weight.stride(), points, *points.stride()),
        *(center, *center.stride(), index, grads[0] if needs_head_weight else None),
        *(grads[1] if needs_points else None, partial if needs_center else None),
        *(count, rows, width),
    )
    grad_center = native.allocate((width,) if needs_center else (0,), center.dtype, points.device)
    if needs_center:
        grad_center.copy_(-partial.sum(0, dtype=torch.float64))
    return grads[0], grads[1], grad_center
