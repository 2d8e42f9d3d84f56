"""Differentiable functions, one per op: they validate, document, and call ``torch.ops.ncfast``.

Letters: N tokens, V classes (the vocabulary), D width, K classes selected. A label of
``IGNORE_INDEX`` (-100) drops its token. Sums are kept in float32, or float64 where an input is
float64; every result is the same bits on repeat and at any thread count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import ops as _ops  # noqa: F401  registers torch.ops.ncfast
from ..reference.checks import IGNORE_INDEX
from .accumulate_class_moments_ import accumulate_class_moments_
from .alignment import alignment
from .between_class_scatter import between_class_scatter
from .class_moments import class_moments
from .linear_argmax import linear_argmax
from .linear_cross_entropy import (
    linear_cross_entropy,  # noqa: F401  the old name of linear_nll_lse
    linear_cross_entropy_bytes,
    linear_nll_lse,
)
from .nearest_center import nearest_center
from .pair_stats import pair_stats
from .within_class_scatter import within_class_scatter

__all__ = [
    "IGNORE_INDEX",
    "accumulate_class_moments_",
    "alignment",
    "between_class_scatter",
    "class_moments",
    "linear_argmax",
    "linear_cross_entropy_bytes",
    "linear_nll_lse",
    "nearest_center",
    "pair_stats",
    "within_class_scatter",
]


def function_of(op: str) -> Callable[..., Any]:
    """Return the public function of an op: its namesake, but for the loss per token.

    >>> function_of("linear_cross_entropy").__name__
    'linear_nll_lse'
    """
    function: Callable[..., Any] = globals()[
        "linear_nll_lse" if op == "linear_cross_entropy" else op
    ]
    return function
