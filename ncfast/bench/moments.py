"""What all providers of pair statistics hand to the gate: moments, each by name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["PAIR_KINDS", "histogram_edges", "named_moments"]

PAIR_KINDS = ("cdnv", "log_distance")
_BINS = 64


def histogram_edges(width: int) -> Tensor:
    """Return [2, 65] edges for random points of some width; values outside are counted nowhere."""
    highest = 4.0 / width  # their CDNV lies around 0.7 / width
    ranges = (0.0, highest), (-0.7, 0.5)  # unit distances lie around sqrt(2)
    return torch.stack([torch.linspace(*r, _BINS + 1, dtype=torch.float64) for r in ranges])


def named_moments(kinds: Sequence[str], stats: Tensor) -> dict[str, Tensor]:
    """Return mean, variance and extremes of each kind from count, sum, squares, min and max."""
    found: dict[str, Tensor] = {}
    for kind, row in zip(kinds, stats.double(), strict=True):
        count, mean = row[0], row[1] / row[0]
        found[f"{kind} pairs"] = count.to(torch.int64)
        found[f"{kind} mean"] = mean
        found[f"{kind} variance"] = row[2] / count - mean**2
        found[f"{kind} least"], found[f"{kind} most"] = row[3], row[4]
    return found
