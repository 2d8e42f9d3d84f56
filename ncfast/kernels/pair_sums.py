"""What the values of a function add up to, over the pairs of one program and over programs."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["PARTS", "add_energies", "add_values", "energy_sums"]

# Of a function's sums: count, sum, squares, deviations, coincident, lowest, highest, nothing.
PARTS = 8


@triton.jit
def add_values(
    sums, p, pairs, coincident, total, squares, away, lowest, highest, PARTS: tl.constexpr
):
    """Add what some pairs hold of a function to its sums."""
    part = tl.arange(0, PARTS) - 8 * p
    added = tl.where(part == 0, tl.sum(pairs), 0).to(tl.float64)
    added += tl.where(part == 1, tl.sum(total), 0.0).to(tl.float64)
    added += tl.where(part == 2, tl.sum(squares), 0.0)
    added += tl.where(part == 3, tl.sum(away), 0.0).to(tl.float64)
    added += tl.where(part == 4, tl.sum(coincident), 0).to(tl.float64)
    low, high = tl.min(lowest).to(tl.float64), tl.max(highest).to(tl.float64)
    ends = tl.where(part == 5, tl.minimum(sums, low), tl.maximum(sums, high))
    return tl.where((part == 5) | (part == 6), ends, sums + added)


@triton.jit
def add_energies(sums, p, value, has, missing, target_value, PARTS: tl.constexpr):
    """Add Riesz energies e^v to the sums of their function, of multiples of the greatest so far."""
    part = tl.arange(0, PARTS) - 8 * p
    before = tl.max(tl.where(part == 6, sums, float("-inf")))
    highest = tl.maximum(before, tl.max(tl.where(has, value, float("-inf"))).to(tl.float64))
    shift = tl.where(highest > float("-inf"), highest, 0.0)  # without a pair, energies are 0 below
    energy = tl.where(has, tl.exp(value - shift.to(tl.float32)), 0.0)
    share = tl.exp((before - shift).to(tl.float32)).to(tl.float64)
    total = tl.sum(energy).to(tl.float64)
    squares = tl.sum(energy * energy).to(tl.float64)
    scaled = tl.where(part == 1, sums * share + total, sums * (share * share) + squares)
    added = tl.where(part == 0, tl.sum(has.to(tl.int32)), 0).to(tl.float64)
    away = tl.sum(tl.where(has, tl.abs(value - target_value), 0.0))
    added += tl.where(part == 3, away, 0.0).to(tl.float64)
    added += tl.where(part == 4, tl.sum(missing.to(tl.int32)), 0).to(tl.float64)
    lowest = tl.min(tl.where(has, value, float("inf"))).to(tl.float64)
    ends = tl.where(part == 5, tl.minimum(sums, lowest), highest)
    sums = tl.where((part == 1) | (part == 2), scaled, sums + added)
    return tl.where((part == 5) | (part == 6), ends, sums)


def energy_sums(sums: Tensor) -> Tensor:
    """Return a function's log sum e^v and log sum e^2v [2], of the programs' sums [programs, 8]."""
    highest = sums[:, 6].amax()
    share = (sums[:, 6] - highest.clamp(min=torch.finfo(highest.dtype).min)).exp()
    total, squares = (sums[:, 1] * share).sum(), (sums[:, 2] * share.square()).sum()
    return torch.stack([highest + total.log(), 2 * highest + squares.log()])
