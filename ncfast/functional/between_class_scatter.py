"""The scatter of class means about a center."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops._metadata import FLOATS, accumulation_dtype
from .checks import center_tensor, require, require_index

__all__ = ["between_class_scatter"]


def between_class_scatter(
    means: Tensor,
    weights: Tensor | None = None,
    center: Tensor | str | None = "classes",
    index: Tensor | None = None,
) -> Tensor:
    r"""Sum the outer products of class means about a center.

    .. math:: S_B = \sum_{k} w_k (\mu_k - c)(\mu_k - c)^\top

    Args:
        means: [V, D] float, the class means (or head rows).
        weights: [K] float, at least 0, one per visited row; None weighs each by 1.
        center: ``"classes"`` (mean of the visited rows), ``"none"``, or a [D] tensor.
        index: [K] int64, the rows to visit, each once; None visits all V. Absent classes should
            be left out: their zero means would count.

    Returns:
        [D, D] float64, a sum: divide by K for the usual Sigma_B. Zero when nothing is visited.

    Gradients flow to means and center (through ``"classes"`` as well); weights have none. Second
    derivatives raise.

    Raises:
        ValueError, TypeError: A shape, dtype or device is wrong.
        ncfast.DataError: A weight is negative or an index is out of range or doubled.

    Source: Papyan, Han and Donoho (2020), Sigma_B; unnormalised here.

    >>> between_class_scatter(torch.tensor([[1.0, 0.0], [3.0, 0.0]])).tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """
    op = "between_class_scatter"
    require(op, "means", means, ("V", "D"), FLOATS)
    require_index(op, index, means)
    count = means.shape[0] if index is None else index.shape[0]
    if weights is not None:
        require(op, "weights", weights, (count,), FLOATS, like=means)
        weights = weights.detach().to(torch.float64)
    center_row = center_tensor(op, means, center, index, accumulation_dtype(means))
    return torch.ops.ncfast.between_class_scatter(means, weights, center_row, index)
