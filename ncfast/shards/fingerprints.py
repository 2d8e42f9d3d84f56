"""What tells tensors of ranks apart, in a few bytes: of tokens, points, ids and class weights."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

__all__ = ["digest_of", "digest_of_values", "fingerprint"]

_ODD = 0x9E3779B97F4A7C15 - (1 << 64)  # spreads numbers over 64 bits; products wrap around
_ROWS_AT_A_TIME = 4096  # in a wider dtype


def fingerprint(x: Tensor, y: Tensor | None) -> Tensor:
    """Return three int64 that differ where labels do, or the rows of x, wherever they lie."""
    x = x.detach()
    labels = torch.zeros((), dtype=torch.int64, device=x.device)
    if y is not None:
        labels = _digest_of_rows(_mixed(y + 1))  # not in proportion to a label: [0, 5] as [2, 4]
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    # Columns count differently, or one-hot rows and rows of signs would have one sum and one norm.
    columns = _mixed(torch.arange(1, x.shape[1] + 1, device=x.device)) >> 40
    columns = columns.to(wide) / (1 << 23)  # in [-1, 1), exact
    sums, norms = [x.new_zeros(0, dtype=wide)], [x.new_zeros(0, dtype=wide)]
    for part in x.split(_ROWS_AT_A_TIME):
        part = part.to(wide).contiguous()  # strides would change the order of sums
        sums.append((part * columns).sum(1))
        norms.append(torch.linalg.vector_norm(part, dim=1))
    # + 0.0: a zero of either sign is one. Bits, so that one NaN does not hide the other rows.
    bits = [(torch.cat(part).double() + 0.0).view(torch.int64) for part in (sums, norms)]
    return torch.stack([labels, *(_digest_of_rows(_mixed(part)) for part in bits)])


def _mixed(numbers: Tensor) -> Tensor:
    """Spread int64 over 64 bits, each in a way of its own."""
    numbers = numbers * _ODD
    return (numbers ^ (numbers >> 29)) * _ODD


def _digest_of_rows(numbers: Tensor) -> Tensor:
    """Return one int64 of [N] that are mixed and of their order."""
    return (numbers * torch.arange(1, len(numbers) + 1, device=numbers.device)).sum()


def digest_of_values(values: Tensor | None) -> tuple[int, str] | None:
    """Return what tells floats [K] from all others, their order included; no copy leaves a GPU."""
    if values is None:
        return None
    _, sums, norms = fingerprint(values[:, None], None).tolist()  # the sign; the absolute value
    return values.numel(), f"{(sums ^ norms) % (1 << 64):016x}"


def digest_of(ids: Tensor | None) -> tuple[int, str] | None:
    """Return what tells ids from all others, their order included."""
    if ids is None:
        return None
    return ids.numel(), hashlib.sha256(ids.detach().cpu().numpy().tobytes()).hexdigest()[:16]
