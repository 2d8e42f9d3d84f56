"""The terms of a call, and their values at a tile of pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import native

__all__ = [
    "CDNV",
    "COSINE",
    "ENERGY",
    "LOG_DISTANCE",
    "LOG_DISTANCE_RAW",
    "RIESZ",
    "energy_slope",
    "on_device",
    "term_codes",
    "term_values",
]

# Numbered as KINDS of ncfast/reference/pair_stats.py.
CDNV, LOG_DISTANCE, COSINE, LOG_DISTANCE_RAW, RIESZ = range(5)
# Codes are kinds, but for cdnv of power 2, which is 4, and riesz of power s, which is 4 + s.
ENERGY = tl.constexpr(4)  # codes of energies are beyond it


def on_device(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers of the host as a tensor, with nothing to wait for, unlike a copy."""
    out = native.allocate((len(values),), dtype, device)
    for p, value in enumerate(values):
        out[p].fill_(value)
    return out


def term_codes(kinds: Sequence[int], powers: Sequence[int], device: torch.device) -> Tensor:
    """Return [P] int32: each term's kind, 4 for cdnv's power 2, 4 + s for riesz."""
    codes = list(kinds)
    for p, power in enumerate(powers):
        if kinds[p] == RIESZ:
            codes[p] = 4 + power
        elif power == 2:
            codes[p] = 4
    return on_device(codes, torch.int32, device)


@triton.jit
def term_values(
    code, exists, directed, cosine, raw_square, unit_square, half, ENERGIES: tl.constexpr
):
    """Return a term's values, which pairs have one, which are not coincident, and what it divides.

    A cosine always has a value: 0 where a vector has no direction. A runtime code, and no loop
    that is unrolled: five terms in one kernel took half a minute to compile. ENERGIES: whether any
    code is of Riesz energies, which kernels of other terms leave out.
    """
    value = cosine
    has = exists
    defined = exists & directed
    safe = cosine
    of_unit = code == 1
    if ENERGIES:
        of_unit = of_unit | (code > ENERGY)
    if of_unit:
        defined = defined & (unit_square > 0)
        has = defined
        safe = tl.where(has, unit_square, 1.0)
        value = -0.5 * tl.log(safe)
        if ENERGIES:
            value = tl.where(code > ENERGY, (code - ENERGY).to(tl.float32) * value, value)
    elif code != 2:
        defined = exists & (raw_square > 0)
        has = defined
        safe = tl.where(has, raw_square, 1.0)
        if code == 3:
            value = -0.5 * tl.log(safe)
        else:
            value = half / safe
            if code == 4:
                value = value / safe
    return value, has, defined, safe


@triton.jit
def energy_slope(value, stats, by_sum, by_value):
    """Return the slopes of log sum e^v and log sum e^2v, whose values ``stats`` points at.

    A value differs from them by less than float32 keeps of either: they come in two parts.
    """
    total, squares = tl.load(stats + 1), tl.load(stats + 2) / 2
    high, high_root = total.to(tl.float32), squares.to(tl.float32)
    share = tl.exp((value - high) - (total - high).to(tl.float32))
    root = tl.exp((value - high_root) - (squares - high_root).to(tl.float32))
    return by_sum * share + by_value * (root * root)
