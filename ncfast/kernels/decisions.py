"""The class of highest score for each token, and its lead: no score is ever stored."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import native
from ..errors import DataError
from .finite import complain_of_nonfinite, complain_of_overflow
from .labels import check_index
from .launching import Configuration, dot_precision, launch
from .tiles import BAND, banded_block, product_tile, splits_of

__all__ = ["decide"]

NOBODY = tl.constexpr(2**31 - 1)

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
def _better(top, rival, who, other_top, other_rival, other_who):
    """Merge two sets of classes: the best, the second best, and who is best; lower ids win ties."""
    wins = (other_top > top) | ((other_top == top) & (other_who < who))
    rival = tl.where(wins, tl.maximum(top, other_rival), tl.maximum(rival, other_top))
    return tl.where(wins, other_top, top), rival, tl.where(wins, other_who, who)


@triton.jit
def _decide(
    x, stride_n, stride_d, head, stride_head_n, stride_head_d, origin, bias, index, tops, rivals,
    whos, strange, tokens, count, rows_of_head, width, classes_each, splits,
    BAND: tl.constexpr, RAW: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    block, split = banded_block(tl.program_id(0), tl.cdiv(tokens, ROWS), splits, BAND)
    r = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = r < tokens
    begin = split * classes_each
    stop = tl.minimum(begin + classes_each, count)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    rival = tl.full((ROWS,), float("-inf"), tl.float32)
    who = tl.full((ROWS,), NOBODY, tl.int32)
    odd = tl.zeros((ROWS,), tl.int32)
    for first in range(begin, stop, COLUMNS):
        k = first + tl.arange(0, COLUMNS)
        kept = k < stop
        rows = k.to(tl.int64)
        if index is not None:
            rows = tl.load(index + k, mask=kept, other=0)
            kept = kept & (rows >= 0) & (rows < rows_of_head)
        scores = product_tile(
            *(x, stride_n, stride_d, head, stride_head_n, stride_head_d, origin, r, inside),
            *(rows, kept, width, RAW, PRECISION, ROWS, COLUMNS, DEPTH),
        )
        if bias is not None:
            scores += tl.load(bias + rows, mask=kept, other=0.0).to(tl.float32)[None, :]
        # A row of head that is not kept was loaded as zeros: it adds no NaN.
        odd = tl.maximum(odd, tl.max((scores - scores != 0).to(tl.int32), axis=1))
        scores = tl.where(kept[None, :], scores, float("-inf"))
        ids = tl.where(kept, rows.to(tl.int32), NOBODY)
        own = tl.max(scores, axis=1)
        best = tl.min(tl.where(scores == own[:, None], ids[None, :], NOBODY), axis=1)
        rest = tl.where(ids[None, :] == best[:, None], float("-inf"), scores)
        top, rival, who = _better(top, rival, who, own, tl.max(rest, axis=1), best)
    home = split.to(tl.int64) * tokens + r
    tl.store(tops + home, top, mask=inside)
    tl.store(rivals + home, rival, mask=inside)
    tl.store(whos + home, who, mask=inside)
    tl.store(strange + home, odd, mask=inside)


@triton.jit
def _merge_decisions(tops, rivals, whos, classes, margins, splits, tokens, ROWS: tl.constexpr):
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = r < tokens
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    rival = tl.full((ROWS,), float("-inf"), tl.float32)
    who = tl.full((ROWS,), NOBODY, tl.int32)
    for split in range(0, splits):
        home = tl.cast(split, tl.int64) * tokens + r
        other_top = tl.load(tops + home, mask=inside, other=0.0)
        other_rival = tl.load(rivals + home, mask=inside, other=0.0)
        other_who = tl.load(whos + home, mask=inside, other=0)
        top, rival, who = _better(top, rival, who, other_top, other_rival, other_who)
    tl.store(classes + r, who.to(tl.int64), mask=inside)
    tl.store(margins + r, top - rival, mask=inside)


def decide(
    op: str,
    name: str,
    x: Tensor,
    head: Tensor,
    bias: Tensor | None,
    index: Tensor | None,
    origin: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return argmax over classes of <x - origin, head - origin> + bias, and its lead.

    ``op`` and ``name`` (of ``head``) are named if data is bad; ``index`` [K] int64 are the classes
    to choose from, and ``origin`` [D] is float32; None: all, and the origin.
    """
    tokens, width = x.shape
    check_index(op, index, head.shape[0])
    index = None if index is None else index.contiguous()
    bias = None if bias is None else bias.contiguous()
    count = head.shape[0] if index is None else index.shape[0]
    if not count:
        raise DataError(f"{op}: there is no class to choose from; expected at least one")
    # Products of 16-bit numbers are exact in float32; float32 is split in three.
    raw = x.dtype == head.dtype and x.dtype != torch.float32 and origin is None
    configurations = NARROW if raw else WIDE
    each, splits = splits_of(tokens, count, configurations[0].tiles)
    tops, rivals = (native.allocate((splits, tokens), torch.float32, x.device) for _ in range(2))
    whos, strange = (native.allocate((splits, tokens), torch.int32, x.device) for _ in range(2))
    launch(
        _decide,
        lambda t: (triton.cdiv(tokens, t["ROWS"]) * splits,),
        configurations,
        *(x, *x.stride(), head, *head.stride(), origin, bias, index, tops, rivals, whos, strange),
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
        *(tops, rivals, whos, classes, margins, splits, tokens),
    )
    finite = (strange == 0).all()
    complain_of_nonfinite(op, "x", finite, x)
    complain_of_nonfinite(op, name, finite, head, index)
    if bias is not None and origin is None:
        complain_of_nonfinite(op, "head_bias", finite, bias[:, None], index)
    overflow = f"scores overflow; expected finite ones: scale x or {name} down"
    complain_of_overflow(op, overflow, finite)
    return classes, margins
