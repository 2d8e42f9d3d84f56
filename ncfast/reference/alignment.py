"""cos_k = <w_k / |w_k|, (p_k - center) / |p_k - center|>."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DataError
from .checks import check_finite, check_index

OP = "alignment"


def _rows(
    head_weight: Tensor, points: Tensor, center: Tensor, index: Tensor | None
) -> tuple[Tensor | slice, Tensor, Tensor]:
    where = check_index(OP, index, points.shape[0])
    visited = torch.zeros(points.shape[0], dtype=torch.bool, device=points.device)
    visited[where] = True
    check_finite(OP, head_weight, visited, "head_weight")
    check_finite(OP, points, visited, "points")
    _check_center(center)
    w = head_weight[where].to(center.dtype)
    q = points[where].to(center.dtype) - center
    if not torch.isfinite(q).all():
        raise DataError(f"{OP}: points less center overflows; expected finite differences")
    return where, w, q


def _units(rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return whether rows have directions [K], unit rows, and two factors of norms [K, 1].

    The first is the largest value of a row: the norm itself may overflow, as its square may.
    """
    most = rows.abs().amax(1, keepdim=True) if rows.shape[1] else rows.sum(1, keepdim=True)
    defined = most[:, 0] > 0
    most = torch.where(most > 0, most, 1)
    size = (rows / most).norm(dim=1, keepdim=True)
    size = torch.where(defined[:, None], size, 1)
    return defined, rows / most / size, most, size


def _check_center(center: Tensor) -> None:
    bad = ~torch.isfinite(center)
    if bad.any():
        d = int(bad.nonzero()[0])
        raise DataError(f"{OP}: center[{d}] is {float(center[d]):g}; expected finite values")


def alignment(head_weight: Tensor, points: Tensor, center: Tensor, index: Tensor | None) -> Tensor:
    """Return the cosines [K]; 0 where either vector is zero."""
    _, w, q = _rows(head_weight, points, center, index)
    w_defined, w_unit, *_ = _units(w)
    q_defined, q_unit, *_ = _units(q)
    return torch.where(w_defined & q_defined, (w_unit * q_unit).sum(1), 0)


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
    where, w, q = _rows(head_weight, points, center, index)
    w_defined, w_unit, *w_norm = _units(w)
    q_defined, q_unit, *q_norm = _units(q)
    g = torch.where(w_defined & q_defined, grad, 0)[:, None]
    cosine = (w_unit * q_unit).sum(1, keepdim=True)
    per_head_row = g * (q_unit - cosine * w_unit) / w_norm[1] / w_norm[0]
    per_point = g * (w_unit - cosine * q_unit) / q_norm[1] / q_norm[0]
    width = points.shape[1]
    grad_head = head_weight.new_zeros(head_weight.shape if needs_head_weight else (0, width))
    grad_points = points.new_zeros(points.shape if needs_points else (0, width))
    if needs_head_weight:
        grad_head[where] = per_head_row.to(head_weight.dtype)
    if needs_points:
        grad_points[where] = per_point.to(points.dtype)
    grad_center = -per_point.sum(0) if needs_center else center.new_zeros(0)
    return grad_head, grad_points, grad_center
