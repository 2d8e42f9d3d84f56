"""The class of highest score for each token, and its lead: no score is ever stored."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import native
from ..errors import DataError
from .finite import report_nonfinite, report_overflow
from .labels import check_index
from .launching import Configuration, dot_precision, launch
from .tiles import BAND, banded_block, product_tile, splits_of

__all__ = ["decide"]

NO_CLASS = tl.constexpr(2**31 - 1)

# The defaults are the largest tiles that spill nothing on sm_80, sm_90a and sm_100a.
NARROW = (
    Configuration("128 x 64 x 64", 8, 3, {"ROWS": 128, "COLUMNS": 64, "DEPTH": 64}),
    Configuration("64 x 128 x 64", 8, 3, {"ROWS": 64, "COLUMNS": 128, "DEPTH": 64}),
    Configuration("128 x 128 x 64", 8, 3, {"ROWS": 128, "COLUMNS": 128, "DEPTH": 64}),
)
WIDE = (
    Configuration("64 x 64 x 16", 4, 3, {"ROWS": 64, "COLUMNS": 64, "DEPTH": 16}),
    Configuration("64 x 128 x 32", 8, 3, {"ROWS": 64, "COLUMNS": 128, "DEPTH": 32}),
)
MERGE = (Configuration("128 tokens", 4, 1, {"ROWS": 128}),)


@triton.jit
def _better(top, second, winner, other_top, other_second, other_winner):
    """Merge two sets of classes: the best, the second best, and who is best; lower ids win ties."""
    wins = (other_top > top) | ((other_top == top) & (other_winner < winner))
    second = tl.where(wins, tl.maximum(top, other_second), tl.maximum(second, other_top))
    return tl.where(wins, other_top, top), second, tl.where(wins, other_winner, winner)


@triton.jit
def _decide(
    x, stride_n, stride_d, head, stride_head_n, stride_head_d, center, bias, index, tops, seconds,
    winners, nonfinite, tokens, count, rows_of_head, width, classes_each, splits,
    BAND: tl.constexpr, RAW: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    block, split = banded_block(tl.program_id(0), tl.cdiv(tokens, ROWS), splits, BAND)
    r = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = r < tokens
    begin = split * classes_each
    stop = tl.minimum(begin + classes_each, count)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    second = tl.full((ROWS,), float("-inf"), tl.float32)
    winner = tl.full((ROWS,), NO_CLASS, tl.int32)
    bad = tl.zeros((ROWS,), tl.int32)
    for first in range(begin, stop, COLUMNS):
        k = first + tl.arange(0, COLUMNS)
        row_mask = k < stop
        rows = k.to(tl.int64)
        if index is not None:
            rows = tl.load(index + k, mask=row_mask, other=0)
            row_mask = row_mask & (rows >= 0) & (rows < rows_of_head)
        scores = product_tile(
            *(x, stride_n, stride_d, head, stride_head_n, stride_head_d, center, r, inside),
            *(rows, row_mask, width, RAW, PRECISION, ROWS, COLUMNS, DEPTH),
        )
        if bias is not None:
            scores += tl.load(bias + rows, mask=row_mask, other=0.0).to(tl.float32)[None, :]
        # A masked row of head was loaded as zeros: it adds no NaN.
        bad = tl.maximum(bad, tl.max((scores - scores != 0).to(tl.int32), axis=1))
        scores = tl.where(row_mask[None, :], scores, float("-inf"))
        ids = tl.where(row_mask, rows.to(tl.int32), NO_CLASS)
        own = tl.max(scores, axis=1)
        best = tl.min(tl.where(scores == own[:, None], ids[None, :], NO_CLASS), axis=1)
        rest = tl.where(ids[None, :] == best[:, None], float("-inf"), scores)
        top, second, winner = _better(top, second, winner, own, tl.max(rest, axis=1), best)
    position = split.to(tl.int64) * tokens + r
    tl.store(tops + position, top, mask=inside)
    tl.store(seconds + position, second, mask=inside)
    tl.store(winners + position, winner, mask=inside)
    tl.store(nonfinite + position, bad, mask=inside)


@triton.jit
def _merge_decisions(tops, seconds, winners, classes, margins, splits, tokens, ROWS: tl.constexpr):
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = r < tokens
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    second = tl.full((ROWS,), float("-inf"), tl.float32)
    winner = tl.full((ROWS,), NO_CLASS, tl.int32)
    for split in range(0, splits):
        position = tl.cast(split, tl.int64) * tokens + r
        other_top = tl.load(tops + position, mask=inside, other=0.0)
        other_second = tl.load(seconds + position, mask=inside, other=0.0)
        other_winner = tl.load(winners + position, mask=inside, other=0)
        top, second, winner = _better(top, second, winner, other_top, other_second, other_winner)
    tl.store(classes + r, winner.to(tl.int64), mask=inside)
    tl.store(margins + r, top - second, mask=inside)


def decide(
    op: str,
    name: str,
    x: Tensor,
    head: Tensor,
    bias: Tensor | None,
    index: Tensor | None,
    center: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return argmax over classes of <x - center, head - center> + bias, and its lead.

    ``op`` and ``name`` (of ``head``) are named if data is bad; ``index`` [K] int64 are the classes
    to choose from, and ``center`` [D] is float32; None: all, and 0.
    """
    tokens, width = x.shape
    check_index(op, index, head.shape[0])
    index = None if index is None else index.contiguous()
    bias = None if bias is None else bias.contiguous()
    count = head.shape[0] if index is None else index.shape[0]
    if not count:
        raise DataError(f"{op}: there is no class to choose from; expected at least one")
    # Products of 16-bit numbers are exact in float32; float32 is split in three.
    raw = x.dtype == head.dtype and x.dtype != torch.float32 and center is None
    configurations = NARROW if raw else WIDE
    each, splits = splits_of(tokens, count, configurations[0].tiles)
    tops, seconds = (native.allocate((splits, tokens), torch.float32, x.device) for _ in range(2))
    winners, nonfinite = (
        native.allocate((splits, tokens), torch.int32, x.device) for _ in range(2)
    )
    launch(
        _decide,
        lambda t: (triton.cdiv(tokens, t["ROWS"]) * splits,),
        configurations,
        *(
            x,
            *x.stride(),
            head,
            *head.stride(),
            center,
            bias,
            index,
            tops,
            seconds,
            winners,
            nonfinite,
        ),
        *(tokens, count, head.shape[0], width, each, splits),
        key=("width",),
        BAND=BAND,
        RAW=raw,
        PRECISION="ieee" if raw else dot_precision(),
    )
    classes = native.allocate((tokens,), torch.int64, x.device)
    margins = native.allocate((tokens,), torch.float32, x.device)
    launch(
        _merge_decisions,
        lambda t: (triton.cdiv(tokens, t["ROWS"]),),
        MERGE,
        *(tops, seconds, winners, classes, margins, splits, tokens),
    )
    finite = (nonfinite == 0).all()
    report_nonfinite(op, "x", finite, x)
    report_nonfinite(op, name, finite, head, index)
    if bias is not None and center is None:
        report_nonfinite(op, "head_bias", finite, bias[:, None], index)
    overflow = f"scores overflow; expected finite ones: scale x or {name} down"
    report_overflow(op, overflow, finite)
    return classes, margins
