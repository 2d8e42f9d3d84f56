"""The cosine of every head row with its class mean."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops._metadata import FLOATS, accumulation_dtype
from .checks import center_tensor, require, require_index

__all__ = ["alignment"]


def alignment(
    head_weight: Tensor,
    points: Tensor,
    center: Tensor | str | None = "classes",
    index: Tensor | None = None,
) -> Tensor:
    r"""Compute the cosine between each head row and its centred class mean.

    .. math:: s_k = \left\langle \frac{w_k}{\|w_k\|}, \frac{\mu_k - c}{\|\mu_k - c\|} \right\rangle

    Args:
        head_weight: [V, D] float, the head's rows; not centred.
        points: [V, D] float, the class means.
        center: ``"classes"`` (mean of the visited points), ``"none"``, or a [D] tensor.
        index: [K] int64, the rows to visit, each once (a word set, the present classes); None
            visits all V.

    Returns:
        [K] cosines in float32 (float64 if an input is), in the order of ``index``. A zero vector
        has no direction: its cosine and its gradients are 0.

    Gradients flow to head_weight, points and center (through ``"classes"`` as well). Second
    derivatives raise.

    Raises:
        ValueError, TypeError: A shape, dtype or device is wrong.
        ncfast.DataError: An index is out of range or doubled.

    Source: NC3 and (U)NC3 of Linguistic Collapse (arXiv 2405.17767) and of Collapsed Language
    Models Promote Fairness (arXiv 2410.04472).

    >>> alignment(torch.eye(2), torch.tensor([[2.0, 0.0], [3.0, 3.0]]), center="none")
    tensor([1.0000, 0.7071])
    """
    op = "alignment"
    require(op, "points", points, ("V", "D"), FLOATS)
    require(op, "head_weight", head_weight, tuple(points.shape), FLOATS, points)
    require_index(op, index, points)
    middle = center_tensor(op, points, center, index, accumulation_dtype(head_weight, points))
    return torch.ops.ncfast.alignment(head_weight, points, middle, index)
