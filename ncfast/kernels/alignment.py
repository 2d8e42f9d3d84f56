"""Cosine of each head row with its centred point."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import native
from .finite import report_nonfinite, report_overflow
from .labels import check_index
from .launching import Configuration, launch
from .tiles import load_tile, load_vector

__all__ = ["alignment", "alignment_backward"]

OP = "alignment"
# Sums of squares between which no square is infinite or so small that its lost digits matter: the
# smallest number of float32 times 10^12, and the largest over 10^3.
MIN_SQUARE = tl.constexpr(1.2e-26)
MAX_SQUARE = tl.constexpr(3.4e35)
FORWARD = (
    Configuration("4 x 512", 4, 2, {"ROWS": 4, "COLUMNS": 512}),
    Configuration("8 x 256", 4, 3, {"ROWS": 8, "COLUMNS": 256}),
    Configuration("2 x 1024", 4, 2, {"ROWS": 2, "COLUMNS": 1024}),
)
# Rows whose gradients one program adds up for the center: a 16th of them are stored besides.
BACKWARD = (Configuration("16 x 256", 8, 1, {"ROWS": 16, "COLUMNS": 256}),)


@triton.jit
def _entries(index, count, rows_of_points, ROWS: tl.constexpr):
    """Return a program's entries, their rows, and which there are."""
    k = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row_mask = k < count
    rows = k
    if index is not None:
        rows = tl.load(index + k, mask=row_mask, other=0)
        row_mask = row_mask & (rows >= 0) & (rows < rows_of_points)
    return k, rows, row_mask


@triton.jit
def _pair(
    head, stride_head_n, stride_head_d, points, stride_n, stride_d, center, stride_center, rows,
    row_mask, columns, width,
):  # fmt: skip
    """Load the head rows and the centred points of a tile."""
    w = load_tile(head, stride_head_n, stride_head_d, rows, row_mask, columns, width)
    q = load_tile(points, stride_n, stride_d, rows, row_mask, columns, width)
    center_values = load_vector(center, stride_center, columns, width)
    return w, tl.where(row_mask[:, None], q - center_values[None, :], 0.0)


@triton.jit
def _sums(
    head, stride_head_n, stride_head_d, points, stride_n, stride_d, center, stride_center, rows,
    row_mask, w_scale, q_scale, width,
    SCALED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Return the squares of head rows and points, both times their scales, and the products."""
    ww = tl.zeros((ROWS, COLUMNS), tl.float32)
    qq = tl.zeros((ROWS, COLUMNS), tl.float32)
    wq = tl.zeros((ROWS, COLUMNS), tl.float32)
    for d in range(0, width, COLUMNS):
        columns = d + tl.arange(0, COLUMNS)
        w, q = _pair(
            *(head, stride_head_n, stride_head_d, points, stride_n, stride_d),
            *(center, stride_center, rows, row_mask, columns, width),
        )
        if SCALED:
            w *= w_scale[:, None]
            q *= q_scale[:, None]
        ww += w * w
        qq += q * q
        wq += w * q
    return tl.sum(ww, axis=1), tl.sum(qq, axis=1), tl.sum(wq, axis=1)


@triton.jit
def _unit_scale(largest):
    """Return the power of two that brings a row's largest value near 1; what is NaN stays NaN."""
    exponent = (largest.to(tl.int32, bitcast=True) >> 23) & 255
    # 2^(127 - exponent), put together from its bits: of 0 and subnormal numbers 2^127.
    return ((254 - tl.minimum(exponent, 252)) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _unit_scales(
    head, stride_head_n, stride_head_d, points, stride_n, stride_d, center, stride_center, rows,
    row_mask, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Return what head rows and centred points are multiplied by, so that their squares fit."""
    w_largest = tl.zeros((ROWS, COLUMNS), tl.float32)
    q_largest = tl.zeros((ROWS, COLUMNS), tl.float32)
    for d in range(0, width, COLUMNS):
        columns = d + tl.arange(0, COLUMNS)
        w, q = _pair(
            *(head, stride_head_n, stride_head_d, points, stride_n, stride_d),
            *(center, stride_center, rows, row_mask, columns, width),
        )
        w_largest = tl.maximum(w_largest, tl.abs(w))
        q_largest = tl.maximum(q_largest, tl.abs(q))
    return _unit_scale(tl.max(w_largest, axis=1)), _unit_scale(tl.max(q_largest, axis=1))


@triton.jit
def _cosines(
    head, stride_head_n, stride_head_d, points, stride_n, stride_d, center, stride_center, rows,
    row_mask, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Return scales and inverse norms, 0 where undefined, of head rows and points; the cosines.

    Inverse norms are of rows times their scales, which are 1 but where squares leave float32.
    """
    w_scale = tl.full((ROWS,), 1.0, tl.float32)
    q_scale = tl.full((ROWS,), 1.0, tl.float32)
    ww, qq, wq = _sums(
        *(head, stride_head_n, stride_head_d, points, stride_n, stride_d),
        *(center, stride_center, rows, row_mask, w_scale, q_scale, width, False, ROWS, COLUMNS),
    )
    # No square can have overflowed, or lost digits that matter; NaN is out of range too.
    fits = (tl.minimum(ww, qq) >= MIN_SQUARE) & (tl.maximum(ww, qq) <= MAX_SQUARE)
    if tl.max((row_mask & (fits == 0)).to(tl.int32), axis=0) > 0:
        w_scale, q_scale = _unit_scales(
            *(head, stride_head_n, stride_head_d, points, stride_n, stride_d),
            *(center, stride_center, rows, row_mask, width, ROWS, COLUMNS // 8),
        )
        # A row that fits keeps its bits, whatever rows share its tile.
        w_scale = tl.where(fits, 1.0, w_scale)
        q_scale = tl.where(fits, 1.0, q_scale)
        ww_scaled, qq_scaled, wq_scaled = _sums(
            *(head, stride_head_n, stride_head_d, points, stride_n, stride_d),
            *(
                center,
                stride_center,
                rows,
                row_mask,
                w_scale,
                q_scale,
                width,
                True,
                ROWS,
                COLUMNS // 8,
            ),
        )
        ww = tl.where(fits, ww, ww_scaled)
        qq = tl.where(fits, qq, qq_scaled)
        wq = tl.where(fits, wq, wq_scaled)
    undefined = (ww == 0) | (qq == 0)  # NaN stays
    w_inverse = tl.where(undefined, 0.0, 1 / tl.where(undefined, 1.0, tl.sqrt_rn(ww)))
    q_inverse = tl.where(undefined, 0.0, 1 / tl.where(undefined, 1.0, tl.sqrt_rn(qq)))
    return w_scale, q_scale, w_inverse, q_inverse, wq * w_inverse * q_inverse


@triton.jit
def _alignment(
    head, stride_head_n, stride_head_d, points, stride_n, stride_d, center, stride_center, index,
    cosines, count, rows_of_points, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    k, rows, row_mask = _entries(index, count, rows_of_points, ROWS)
    _, _, _, _, cosine = _cosines(
        *(head, stride_head_n, stride_head_d, points, stride_n, stride_d),
        *(center, stride_center, rows, row_mask, width, ROWS, COLUMNS),
    )
    tl.store(cosines + k, cosine, mask=k < count)


@triton.jit
def _alignment_backward(
    grad, stride_grad, head, stride_head_n, stride_head_d, points, stride_n, stride_d, center,
    stride_center, index, grad_head, grad_points, partial, count, rows_of_points, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    k, rows, row_mask = _entries(index, count, rows_of_points, ROWS)
    w_scale, q_scale, w_inverse, q_inverse, cosine = _cosines(
        *(head, stride_head_n, stride_head_d, points, stride_n, stride_d),
        *(center, stride_center, rows, row_mask, width, ROWS, COLUMNS),
    )
    upstream = tl.load(grad + k * stride_grad, mask=row_mask, other=0.0)
    for d in range(0, width, COLUMNS):
        columns = d + tl.arange(0, COLUMNS)
        w, q = _pair(
            *(head, stride_head_n, stride_head_d, points, stride_n, stride_d),
            *(center, stride_center, rows, row_mask, columns, width),
        )
        w = w * w_scale[:, None] * w_inverse[:, None]
        q = q * q_scale[:, None] * q_inverse[:, None]
        places = rows[:, None] * width + columns[None, :]
        mask = row_mask[:, None] & (columns[None, :] < width)
        if grad_head is not None:
            row = (upstream * w_inverse * w_scale)[:, None] * (q - cosine[:, None] * w)
            tl.store(grad_head + places, row.to(grad_head.dtype.element_ty), mask=mask)
        row = (upstream * q_inverse * q_scale)[:, None] * (w - cosine[:, None] * q)
        if grad_points is not None:
            tl.store(grad_points + places, row.to(grad_points.dtype.element_ty), mask=mask)
        if partial is not None:
            position = partial + tl.program_id(0).to(tl.int64) * width
            tl.store(position + columns, tl.sum(row, axis=0), mask=columns < width)


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
    report_errors(head_weight, points, center, index, cosines.isfinite().all())
    return cosines


def report_errors(
    head_weight: Tensor, points: Tensor, center: Tensor, index: Tensor | None, finite: Tensor
) -> None:
    """Report which value is not finite, where a cosine is not."""
    report_nonfinite(OP, "head_weight", finite, head_weight, index)
    report_nonfinite(OP, "points", finite, points, index)
    report_nonfinite(OP, "center", finite, center[:, None])
    overflow = "points less center overflows; expected finite differences"
    report_overflow(OP, overflow, finite)


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
