"""nll = lse - target and lse = ln sum_j exp z_j of the logits z = x W^T + b, soft-capped."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .checks import check_finite, check_labels

_ROWS = 256  # tokens whose logits exist at a time
CLASS_TILE = 512


def stored_columns(values: int, tokens: int, classes: int) -> int:
    """Return of how many first classes the logits of all kept tokens fit: whole tiles of 512."""
    fit = values // tokens if tokens else 0
    return classes if fit >= classes else fit // CLASS_TILE * CLASS_TILE


def _tiles(
    x: Tensor,
    head_weight: Tensor,
    y: Tensor,
    head_bias: Tensor | None,
    softcap: float,
    vocab_start: int,
    vocab_size: int,
    dtype: torch.dtype,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield token rows, their logits, and one-hot labels (zero where the label is elsewhere)."""
    classes = min(head_weight.shape[0], vocab_size - vocab_start)
    w = head_weight[:classes].to(dtype)
    kept = check_labels("linear_cross_entropy", y, vocab_size)
    ids = torch.arange(vocab_start, vocab_start + classes, device=y.device)
    for rows in kept.nonzero()[:, 0].split(_ROWS):
        z = x[rows].to(dtype) @ w.T
        if head_bias is not None:
            z = z + head_bias[:classes].to(dtype)
        if softcap > 0:
            z = softcap * torch.tanh(z / softcap)
        yield rows, z, (y[rows, None] == ids)


def linear_cross_entropy(
    x: Tensor,
    head_weight: Tensor,
    y: Tensor,
    head_bias: Tensor | None,
    softcap: float,
    vocab_start: int,
    vocab_size: int,
    label_smoothing: float,
    finite_only: bool,
    logits: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return nll [N], lse [N] and ``logits`` [values], filled with as many as fit, then zeros."""
    valid = check_labels("linear_cross_entropy", y, vocab_size)
    if finite_only:
        check_finite("linear_cross_entropy", x, valid)
    dtype = logits.dtype
    nll, lse = (torch.zeros(len(y), dtype=dtype, device=x.device) for _ in range(2))
    tokens = int((y >= 0).sum())
    classes = min(head_weight.shape[0], vocab_size - vocab_start)
    columns = stored_columns(logits.numel(), tokens, classes)
    logits.zero_()
    kept = logits[: tokens * columns].view(tokens, columns)
    shared = (head_bias, softcap, vocab_start, vocab_size, dtype)
    done = 0
    for rows, z, own in _tiles(x, head_weight, y, *shared):
        lse[rows] = torch.logsumexp(z, 1)
        target = (1 - label_smoothing) * torch.where(own, z, 0).sum(1)
        if label_smoothing:
            target = target + label_smoothing / vocab_size * z.sum(1)
        nll[rows] = lse[rows] - target
        kept[done : done + len(rows)] = z[:, :columns]
        done += len(rows)
    return nll, lse, logits


def linear_cross_entropy_backward(
    grad_nll: Tensor | None,
    grad_lse: Tensor | None,
    x: Tensor,
    head_weight: Tensor,
    y: Tensor,
    head_bias: Tensor | None,
    lse: Tensor,
    logits: Tensor,
    softcap: float,
    vocab_start: int,
    vocab_size: int,
    label_smoothing: float,
    needs_x: bool,
    needs_head_weight: bool,
    needs_head_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradients through d nll/dz = p - (1 - s) onehot - s/V and d lse/dz = p."""
    dtype = lse.dtype
    none = lse.new_zeros(lse.shape)
    g_nll = none if grad_nll is None else grad_nll
    g_lse = none if grad_lse is None else grad_lse
    grad_x = x.new_zeros(x.shape if needs_x else (0, x.shape[1]))
    summed = head_weight.new_zeros(head_weight.shape, dtype=dtype)
    summed_bias = lse.new_zeros(head_weight.shape[0])
    shared = (head_bias, softcap, vocab_start, vocab_size, dtype)
    for rows, z, own in _tiles(x, head_weight, y, *shared):
        a, b = (g_nll + g_lse)[rows, None], g_nll[rows, None]
        grad = torch.exp(z - lse[rows, None]) * a - b * label_smoothing / vocab_size
        grad = grad - b * (1 - label_smoothing) * own
        if softcap > 0:
            grad = grad * (1 - (z / softcap) ** 2)
        classes = z.shape[1]
        if needs_x:
            grad_x[rows] = (grad @ head_weight[:classes].to(dtype)).to(x.dtype)
        summed[:classes] += grad.T @ x[rows].to(dtype)
        summed_bias[:classes] += grad.sum(0)
    grad_head = summed.to(head_weight.dtype) if needs_head_weight else head_weight[:0].clone()
    grad_bias = summed_bias[: None if needs_head_bias else 0]
    return grad_x, grad_head, grad_bias.to((head_weight if head_bias is None else head_bias).dtype)
