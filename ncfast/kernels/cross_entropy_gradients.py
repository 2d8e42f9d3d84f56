"""Gradients of the loss: dL/dlogits of a panel of tokens and classes, times rows of either."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import native
from .launching import Configuration, launch
from .logits import Head, capped, head_of, valid_rows
from .panels import add_panel_products
from .rows import CenteredRows
from .tiles import product_tile

__all__ = ["linear_cross_entropy_backward"]

PANEL_TOKENS, PANEL_CLASSES = 2048, 4096  # 32 MiB of dL/dlogits
# A panel's sums are by tile: configurations differ in depth and warps alone.
NARROW = (
    Configuration("64 x 64 x 64", 4, 3, {"ROWS": 64, "COLUMNS": 64, "DEPTH": 64}),
    Configuration("64 x 64 x 64, 8 warps", 8, 3, {"ROWS": 64, "COLUMNS": 64, "DEPTH": 64}),
    Configuration("64 x 64 x 32", 4, 4, {"ROWS": 64, "COLUMNS": 64, "DEPTH": 32}),
)
WIDE = (
    Configuration("64 x 64 x 16", 4, 3, {"ROWS": 64, "COLUMNS": 64, "DEPTH": 16}),
    Configuration("64 x 64 x 16, 8 warps", 8, 3, {"ROWS": 64, "COLUMNS": 64, "DEPTH": 16}),
)


@triton.jit
def _logit_gradients(
    x, stride_n, stride_d, head, stride_head_n, stride_head_d, bias, keys, logits, ranks, stored,
    tokens, classes, width, vocab_start, vocab_size, softcap, lse, grad_nll, grad_lse, label_share,
    smoothed_share, first_token, first_class, panel, panel_columns, sums,
    CAPPED: tl.constexpr, RAW: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    r = first_token.to(tl.int64) + i
    k = first_class + j
    class_mask = k < classes
    inside = r < tokens
    key = tl.load(keys + r, mask=inside, other=vocab_size)
    valid = key < vocab_size
    columns = tl.cast(0, tl.int64)
    if logits is not None:
        columns = tl.load(stored)
    last = first_class + (tl.program_id(1) + 1) * COLUMNS
    if (columns == classes) | (last <= columns):
        z = tl.zeros((ROWS, COLUMNS), tl.float32)
        if logits is not None:
            position = tl.load(ranks + r, mask=inside, other=0) * columns
            mask = valid[:, None] & class_mask[None, :]
            z = tl.load(logits + position[:, None] + k[None, :], mask=mask, other=0.0)
    else:
        z = product_tile(
            *(x, stride_n, stride_d, head, stride_head_n, stride_head_d, None, r, valid),
            *(k.to(tl.int64), class_mask, width, RAW, PRECISION, ROWS, COLUMNS, DEPTH),
        )
        if bias is not None:
            z += tl.load(bias + k, mask=class_mask, other=0.0).to(tl.float32)[None, :]
        if CAPPED:
            z = capped(z, softcap)
    by_nll = tl.zeros((ROWS,), tl.float32)
    by_lse = tl.zeros((ROWS,), tl.float32)
    if grad_nll is not None:
        by_nll = tl.load(grad_nll + r, mask=valid, other=0.0)
    if grad_lse is not None:
        by_lse = tl.load(grad_lse + r, mask=valid, other=0.0)
    level = tl.load(lse + r, mask=valid, other=0.0)
    own = (key - vocab_start)[:, None] == k[None, :]
    grad = tl.exp(z - level[:, None]) * (by_nll + by_lse)[:, None]
    grad -= (by_nll * smoothed_share)[:, None] + tl.where(own, (by_nll * label_share)[:, None], 0.0)
    if CAPPED:
        grad *= 1 - (z / softcap) * (z / softcap)
    grad = tl.where(valid[:, None] & class_mask[None, :], grad, 0.0)
    tl.store(panel + i[:, None] * panel_columns + j[None, :], grad)
    tl.store(sums + tl.program_id(0) * panel_columns + j, tl.sum(grad, axis=0))


class _Sums:
    """Add up gradients in float32, in the memory of the result where that is its dtype."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self.out = native.allocate(shape, dtype, device)
        wide = dtype == torch.float32
        self.total = self.out if wide else native.allocate(shape, torch.float32, device)

    def result(self) -> Tensor:
        """Return the sums, rounded once."""
        if self.total is not self.out:
            self.out.copy_(self.total)
        return self.out


class _Panel:
    """Hold dL/dlogits of some tokens and classes, and its sums over tiles of tokens."""

    def __init__(self, head: Head) -> None:
        constants = head.constants()
        self.configurations = NARROW if constants["RAW"] else WIDE
        tiles, device = self.configurations[0].tiles, head.x.device
        sides = zip(
            (PANEL_TOKENS, PANEL_CLASSES),
            (head.x.shape[0], head.classes),
            (tiles["ROWS"], tiles["COLUMNS"]),
            strict=True,
        )
        self.tokens, self.classes = (-(-min(limit, n) // t) * t for limit, n, t in sides)
        self.values = native.allocate((self.tokens, self.classes), torch.float32, device)
        blocks = self.tokens // tiles["ROWS"]
        self.sums = native.allocate((blocks, self.classes), torch.float32, device)

    def fill(
        self, head: Head, grads: tuple[object, ...], token: int, cls: int
    ) -> tuple[Tensor, Tensor]:
        """Return what the panel holds of tokens and classes from these on, and its class sums."""
        launch(
            _logit_gradients,
            lambda t: (self.tokens // t["ROWS"], self.classes // t["COLUMNS"]),
            self.configurations,
            *(*head.arguments(), *grads, token, cls, self.values, self.classes, self.sums),
            key=("width",),
            **head.constants(),
        )
        rows = min(self.tokens, head.x.shape[0] - token)
        columns = min(self.classes, head.classes - cls)
        return self.values[:rows, :columns], self.sums[:, :columns].sum(0, dtype=torch.float64)


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
    """Return the gradients, added up panel by panel in float32, in a fixed order."""
    op, device = "linear_cross_entropy", x.device
    (tokens, width), classes = x.shape, head_weight.shape[0]
    settings = (softcap, vocab_start, vocab_size)
    head = head_of(op, x, head_weight, y, head_bias, logits.contiguous(), *settings)
    by_x = _Sums((tokens if needs_x else 0, width), x.dtype, device)
    grad_head = native.allocate(
        (classes if needs_head_weight else 0, width), head_weight.dtype, device
    )
    like = head_weight if head_bias is None else head_bias
    grad_bias = native.allocate((classes if needs_head_bias else 0,), like.dtype, device)
    for unread in (grad_head, grad_bias):
        unread[head.classes if tokens else 0 :].zero_()  # rows that pad the vocabulary
    if not tokens:
        return by_x.result(), grad_head, grad_bias
    panel = _Panel(head)
    upstream = [None if g is None else g.contiguous() for g in (grad_nll, grad_lse)]
    shares = (1.0 - label_smoothing, label_smoothing / vocab_size)
    grads = (lse.contiguous(), *upstream, *shares)
    token_rows = CenteredRows(x, valid_rows(head.keys, vocab_size))
    for cls in range(0, head.classes, panel.classes):
        stop = min(cls + panel.classes, head.classes)
        by_head = _Sums((stop - cls if needs_head_weight else 0, width), torch.float32, device)
        by_bias = torch.zeros((stop - cls,), dtype=torch.float64, device=device)
        for token in range(0, tokens, panel.tokens):
            values, sums = panel.fill(head, grads, token, cls)
            by_bias += sums
            if needs_x:
                some = by_x.total[token : token + values.shape[0]]
                add_panel_products(values, CenteredRows(head_weight), cls, some, add=cls > 0)
            if needs_head_weight:
                add_panel_products(values.T, token_rows, token, by_head.total, add=token > 0)
        if needs_head_weight:
            grad_head[cls:stop] = by_head.total
        if needs_head_bias:
            grad_bias[cls:stop] = by_bias
    return by_x.result(), grad_head, grad_bias
