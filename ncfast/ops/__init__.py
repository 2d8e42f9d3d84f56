"""The ops: importing this package registers all of them under ``torch.ops.ncfast``."""

from __future__ import annotations

from . import (
    accumulate_class_moments_,
    alignment,
    between_class_scatter,
    class_moments,
    linear_argmax,
    linear_cross_entropy,
    nearest_center,
    pair_stats,
    within_class_scatter,
)

__all__ = [
    "accumulate_class_moments_",
    "alignment",
    "between_class_scatter",
    "class_moments",
    "linear_argmax",
    "linear_cross_entropy",
    "nearest_center",
    "pair_stats",
    "within_class_scatter",
]
