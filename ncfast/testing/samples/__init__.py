"""Named sample arguments of every op, one table: shapes, layouts and label patterns that matter.

To add an op: write a function that yields its samples, in the file of what it works on, and name it
in ``_SAMPLES``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from . import decisions, losses, points, tokens
from .tensors import Sample, tiny_tokens

__all__ = ["Sample", "sample_inputs", "tiny_tokens"]

_SAMPLES: dict[str, Callable[[torch.dtype], Iterator[Sample]]] = {
    "accumulate_class_moments_": tokens.accumulate_class_moments_,
    "alignment": points.alignment,
    "between_class_scatter": points.between_class_scatter,
    "class_moments": tokens.class_moments,
    "linear_argmax": decisions.linear_argmax,
    "linear_cross_entropy": losses.linear_cross_entropy,
    "nearest_center": decisions.nearest_center,
    "pair_stats": points.pair_stats,
    "within_class_scatter": tokens.within_class_scatter,
}


def sample_inputs(op: str, dtype: torch.dtype = torch.float32) -> list[Sample]:
    """Return named samples of an op's arguments: shapes, layouts and label patterns that matter.

    Args:
        op: The op's name.
        dtype: The dtype of features and points; class means follow at float32 or wider.

    Returns:
        Samples with the arguments of ``ncfast.functional``'s function of that name. Arguments that
        an op updates in place belong to the sample: clone them.

    >>> [s.name for s in sample_inputs("alignment") if "index" in s.name]
    ['index-shuffled', 'index-empty', 'index-strided']
    """
    if op not in _SAMPLES:
        raise ValueError(f"no samples of {op!r}; expected one of {sorted(_SAMPLES)}")
    return list(_SAMPLES[op](dtype))
