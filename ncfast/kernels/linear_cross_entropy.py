"""Negative log-likelihood and log-sum-exp of a linear classifier; logits as the budget allows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import native
from .cross_entropy_gradients import linear_cross_entropy_backward
from .finite import report_nonfinite
from .launching import Configuration, launch
from .logits import capped, head_of, valid_rows
from .tiles import BAND, banded_block, product_tile, splits_of

__all__ = ["linear_cross_entropy", "linear_cross_entropy_backward"]

OP = "linear_cross_entropy"

# The largest tiles that spill nothing on sm_80, sm_90a and sm_100a with a cap and stored logits.
NARROW = (
    Configuration("64 x 64 x 64", 8, 3, {"ROWS": 64, "COLUMNS": 64, "DEPTH": 64}),
    Configuration("128 x 64 x 64", 8, 3, {"ROWS": 128, "COLUMNS": 64, "DEPTH": 64}),
    Configuration("64 x 128 x 64", 8, 3, {"ROWS": 64, "COLUMNS": 128, "DEPTH": 64}),
)
WIDE = (
    Configuration("64 x 64 x 16", 8, 3, {"ROWS": 64, "COLUMNS": 64, "DEPTH": 16}),
    Configuration("64 x 64 x 32", 8, 2, {"ROWS": 64, "COLUMNS": 64, "DEPTH": 32}),
)
MERGE = (Configuration("128 tokens", 4, 1, {"ROWS": 128}),)


@triton.jit
def _visit_classes(
    x, stride_n, stride_d, head, stride_head_n, stride_head_d, bias, keys, logits, ranks, stored,
    tokens, classes, width, vocab_start, vocab_size, softcap, parts, nonfinite, classes_each,
    splits, BAND: tl.constexpr, CAPPED: tl.constexpr, RAW: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    block, split = banded_block(tl.program_id(0), tl.cdiv(tokens, ROWS), splits, BAND)
    r = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = r < tokens
    key = tl.load(keys + r, mask=inside, other=vocab_size)
    valid = key < vocab_size
    begin = split * classes_each
    stop = tl.minimum(begin + classes_each, classes)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    sums = tl.zeros((ROWS,), tl.float32)
    target = tl.zeros((ROWS,), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    bad = tl.zeros((ROWS,), tl.int32)
    for first in range(begin, stop, COLUMNS):
        k = first + tl.arange(0, COLUMNS)
        class_mask = k < stop
        z = product_tile(
            *(x, stride_n, stride_d, head, stride_head_n, stride_head_d, None, r, valid),
            *(k.to(tl.int64), class_mask, width, RAW, PRECISION, ROWS, COLUMNS, DEPTH),
        )
        # Before the cap, which makes infinities finite; a bias of -Inf is none of x's.
        bad = tl.maximum(bad, tl.max((z - z != 0).to(tl.int32), axis=1))
        if bias is not None:
            z += tl.load(bias + k, mask=class_mask, other=0.0).to(tl.float32)[None, :]
        if CAPPED:
            z = capped(z, softcap)
        if logits is not None:
            columns = tl.load(stored)
            position = tl.load(ranks + r, mask=inside, other=0) * columns
            fits = valid[:, None] & (class_mask & (k < columns))[None, :]
            tl.store(logits + position[:, None] + k[None, :], z, mask=fits)
        own = (key - vocab_start)[:, None] == k[None, :]
        target += tl.sum(tl.where(own & class_mask[None, :], z, 0.0), axis=1)
        total += tl.sum(tl.where(class_mask[None, :], z, 0.0), axis=1)
        z = tl.where(class_mask[None, :], z, float("-inf"))
        highest = tl.maximum(top, tl.max(z, axis=1))
        level = tl.where(highest == float("-inf"), 0.0, highest)
        sums = sums * tl.exp(top - level) + tl.sum(tl.exp(z - level[:, None]), axis=1)
        top = highest
    position = parts + split.to(tl.int64) * 4 * tokens + r
    tl.store(position, top, mask=inside)
    tl.store(position + tokens, sums, mask=inside)
    tl.store(position + 2 * tokens, target, mask=inside)
    tl.store(position + 3 * tokens, total, mask=inside)
    tl.store(nonfinite + split.to(tl.int64) * tokens + r, bad, mask=inside)


@triton.jit
def _merge_classes(
    parts, keys, nll, lse, splits, tokens, vocab_size, label_share, smoothed_share,
    ROWS: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = r < tokens
    valid = tl.load(keys + r, mask=inside, other=vocab_size) < vocab_size
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    sums = tl.zeros((ROWS,), tl.float32)
    target = tl.zeros((ROWS,), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for split in range(0, splits):
        position = parts + tl.cast(split, tl.int64) * 4 * tokens + r
        other = tl.load(position, mask=inside, other=0.0)
        highest = tl.maximum(top, other)
        level = tl.where(highest == float("-inf"), 0.0, highest)
        share = tl.load(position + tokens, mask=inside, other=0.0) * tl.exp(other - level)
        sums = sums * tl.exp(top - level) + share
        top = highest
        target += tl.load(position + 2 * tokens, mask=inside, other=0.0)
        total += tl.load(position + 3 * tokens, mask=inside, other=0.0)
    found = top + tl.log(sums)
    target_value = label_share * target
    if smoothed_share != 0.0:  # 0 x Inf, of a class that its bias excludes
        target_value += smoothed_share * total
    tl.store(lse + r, tl.where(valid, found, 0.0), mask=inside)
    tl.store(nll + r, tl.where(valid, found - target_value, 0.0), mask=inside)


def linear_cross_entropy(
    x: Tensor,
    head_weight: Tensor,
    y: Tensor,
    head_bias: Tensor | None,
    softcap: float,
    vocab_start: int,
    vocab_size: int,
    label_smoothing: float,
    memory_budget: int,
    check_finite: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return nll [N], lse [N] and as many logits as the budget holds, then zeros."""
    device, tokens = x.device, x.shape[0]
    values = min(memory_budget // 4, tokens * head_weight.shape[0])
    nll, lse, logits = (
        native.allocate((size,), torch.float32, device) for size in (tokens, tokens, values)
    )
    logits.zero_()
    vocabulary = (softcap, vocab_start, vocab_size)
    head = head_of(OP, x, head_weight, y, head_bias, logits, *vocabulary)
    constants = head.constants()
    configurations = NARROW if constants["RAW"] else WIDE
    each, splits = splits_of(tokens, head.classes, configurations[0].tiles)
    parts = native.allocate((splits, 4, tokens), torch.float32, device)
    nonfinite = native.allocate((splits, tokens), torch.int32, device)
    launch(
        _visit_classes,
        lambda t: (triton.cdiv(tokens, t["ROWS"]) * splits,),
        configurations,
        *(*head.arguments(), parts, nonfinite, each, splits),
        key=("width",),
        BAND=BAND,
        **constants,
    )
    launch(
        _merge_classes,
        lambda t: (triton.cdiv(tokens, t["ROWS"]),),
        MERGE,
        *(parts, head.keys, nll, lse, splits, tokens, vocab_size),
        *(1.0 - label_smoothing, label_smoothing / vocab_size),
    )
    if check_finite:
        finite = (nonfinite == 0).all()
        report_nonfinite(OP, "x", finite, x, valid_rows(head.keys, vocab_size))
    return nll, lse, logits
