"""The functions of a call, and their values at a tile of pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import native

__all__ = [
    "CDNV",
    "CODE_CDNV_SQUARED",
    "CODE_COSINE",
    "CODE_LOG_DISTANCE",
    "CODE_LOG_DISTANCE_RAW",
    "COSINE",
    "ENERGY",
    "LOG_DISTANCE",
    "LOG_DISTANCE_RAW",
    "RIESZ",
    "energy_derivative",
    "function_codes",
    "function_values",
    "on_device",
    "sums_in_parts",
]

# Numbered as KINDS of ncfast/reference/pair_stats.py.
CDNV, LOG_DISTANCE, COSINE, LOG_DISTANCE_RAW, RIESZ = range(5)
# How kernels identify a function: its kind, or of cdnv's power 2 and of riesz what is below.
CODE_LOG_DISTANCE = tl.constexpr(LOG_DISTANCE)
CODE_COSINE = tl.constexpr(COSINE)
CODE_LOG_DISTANCE_RAW = tl.constexpr(LOG_DISTANCE_RAW)
CODE_CDNV_SQUARED = tl.constexpr(RIESZ)  # an energy has a power of at least 1
ENERGY = tl.constexpr(RIESZ)


def on_device(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers of the host as a tensor, with nothing to wait for, unlike a copy."""
    out = native.allocate((len(values),), dtype, device)
    for p, value in enumerate(values):
        out[p].fill_(value)
    return out


def function_codes(kinds: Sequence[int], powers: Sequence[int], device: torch.device) -> Tensor:
    """Return [P] int32: each function's code."""
    codes = list(kinds)
    for p, power in enumerate(powers):
        if kinds[p] == RIESZ:
            codes[p] = ENERGY.value + power
        elif power == 2:
            codes[p] = CODE_CDNV_SQUARED.value
    return on_device(codes, torch.int32, device)


def sums_in_parts(stats: Tensor) -> Tensor:
    """Return [P, 4] float32 of the forward pass's stats: log sum e^v, half of log sum e^2v, and
    what float32 leaves of both; a value differs from them by less than it keeps of either.

    Made here: float64 in the kernel spilled 6 times on sm_80.
    """
    parts = native.allocate((len(stats), 4), torch.float32, stats.device)
    for i, sums in enumerate((stats[:, 1], stats[:, 2] / 2)):
        parts[:, i] = sums
        parts[:, 2 + i] = sums - parts[:, i]
    return parts


@triton.jit
def function_values(
    code, exists, directed, cosine, raw_square, unit_square, half, ENERGIES: tl.constexpr
):
    """Return a function's values, which pairs have one, which are apart, and what it divides.

    A cosine always has a value: 0 where a vector has no direction. A runtime code, and no loop
    that is unrolled: five functions in one kernel took half a minute to compile. ENERGIES: whether
    any code is of Riesz energies, which kernels of other functions leave out.
    """
    value = cosine
    has = exists
    defined = exists & directed
    safe = cosine
    of_unit = code == CODE_LOG_DISTANCE
    if ENERGIES:
        of_unit = of_unit | (code > ENERGY)
    if of_unit:
        defined = defined & (unit_square > 0)
        has = defined
        safe = tl.where(has, unit_square, 1.0)
        value = -0.5 * tl.log(safe)
        if ENERGIES:
            value = tl.where(code > ENERGY, (code - ENERGY).to(tl.float32) * value, value)
    elif code != CODE_COSINE:
        defined = exists & (raw_square > 0)
        has = defined
        safe = tl.where(has, raw_square, 1.0)
        if code == CODE_LOG_DISTANCE_RAW:
            value = -0.5 * tl.log(safe)
        else:
            value = half / safe
            if code == CODE_CDNV_SQUARED:
                value = value / safe
    return value, has, defined, safe


@triton.jit
def energy_derivative(value, sums, by_sum, by_value):
    """Return derivatives of log sum e^v and log sum e^2v; ``sums`` points at ``sums_in_parts``."""
    share = tl.exp((value - tl.load(sums)) - tl.load(sums + 2))
    root = tl.exp((value - tl.load(sums + 1)) - tl.load(sums + 3))
    return by_sum * share + by_value * (root * root)
