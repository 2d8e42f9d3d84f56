"""Logits of a tile of tokens and classes, and the arguments that forward and backward share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .labels import class_keys
from .launching import dot_precision

__all__ = ["Head", "capped", "head_of", "valid_rows"]

CLASS_TILE = 512  # stored logits are of whole tiles of classes (reference/linear_cross_entropy.py)


@dataclass(frozen=True)
class Head:
    """Hold a call's tokens and classes, and where its logits are stored."""

    x: Tensor  # [N, D]
    weight: Tensor  # [V, D]
    bias: Tensor | None  # [V], contiguous
    keys: Tensor  # [N] int32: labels; vocab_size where a token is ignored
    logits: Tensor | None  # [values] float32
    ranks: Tensor | None  # [N] int64: the row of each token's stored logits
    columns: Tensor | None  # [] int64: of how many first classes they are
    classes: int
    vocab_start: int
    vocab_size: int
    softcap: float

    def arguments(self) -> tuple[object, ...]:
        """Return what kernels of logits take first."""
        matrices = (self.x, *self.x.stride(), self.weight, *self.weight.stride(), self.bias)
        stored = (self.keys, self.logits, self.ranks, self.columns)
        sizes = (self.x.shape[0], self.classes, self.x.shape[1])
        return (*matrices, *stored, *sizes, self.vocab_start, self.vocab_size, self.softcap)

    def constants(self) -> dict[str, Any]:
        """Return what those kernels are compiled for."""
        # Products of 16-bit numbers are exact in float32; float32 is split in three.
        raw = self.x.dtype == self.weight.dtype != torch.float32
        precision = "ieee" if raw else dot_precision()
        return {"CAPPED": self.softcap > 0, "RAW": raw, "PRECISION": precision}


def head_of(
    op: str,
    x: Tensor,
    head_weight: Tensor,
    y: Tensor,
    head_bias: Tensor | None,
    logits: Tensor,
    softcap: float,
    vocab_start: int,
    vocab_size: int,
) -> Head:
    """Check the labels, and compute on the device how many logits fit."""
    keys = class_keys(op, y, vocab_size)
    classes = min(head_weight.shape[0], vocab_size - vocab_start)
    ranks, columns = None, None
    if logits.numel():
        valid = keys < vocab_size
        ranks = valid.cumsum(0) - 1
        fit = logits.numel() // (ranks[-1] + 1).clamp(min=1)
        columns = torch.where(fit >= classes, classes, fit // CLASS_TILE * CLASS_TILE)
    bias = None if head_bias is None else head_bias.contiguous()
    stored = logits if logits.numel() else None
    settings = (classes, vocab_start, vocab_size, softcap)
    return Head(x, head_weight, bias, keys, stored, ranks, columns, *settings)


def valid_rows(keys: Tensor, vocab_size: int) -> Tensor:
    """Return [N] int64: each token's row; -1, which is no row, where it is ignored."""
    rows = torch.arange(keys.shape[0], dtype=torch.int64, device=keys.device)
    return rows.masked_fill(keys >= vocab_size, -1)


@triton.jit
def capped(z, softcap):
    """Return softcap tanh(z/softcap): by 1 - 2/(e^2u + 1), which cancels near 0; there, a series.

    Its first term left out, u - u^3 (1/3 - 2/15 u^2 + 17/315 u^4 - 62/2835 u^6), is 2e-8 at 1/4.
    """
    u = z / softcap
    square = u * u
    series = ((62.0 / 2835 * square - 17.0 / 315) * square + 2.0 / 15) * square - 1.0 / 3
    clamped = tl.minimum(tl.maximum(u, -20.0), 20.0)
    far = 1 - 2 / (tl.exp(2 * clamped) + 1)
    return softcap * tl.where(square < 0.0625, u + u * square * series, far)
