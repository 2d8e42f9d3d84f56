"""The scatter of tokens about the mean of their class."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import require, require_tokens

__all__ = ["within_class_scatter"]


def within_class_scatter(x: Tensor, y: Tensor, means: Tensor) -> Tensor:
    r"""Sum the outer products of tokens about the mean of their class.

    .. math:: S_W = \sum_{i: y_i \ne -100} (x_i - \mu_{y_i})(x_i - \mu_{y_i})^\top

    Args:
        x: [N, D] float features.
        y: [N] int64 classes, or -100 to ignore the token.
        means: [V, D] float32 or float64 (float64 if x is), the class means to measure from.

    Returns:
        [D, D] float64, a sum: divide by the number of tokens for a covariance. Zero when every
        token is ignored. Products are formed in the dtype of ``means`` over at most 4,096 tokens
        and added in float64.

    Gradients flow to x and to means, which are treated as independent. Second derivatives raise.

    Raises:
        ValueError, TypeError: A shape, dtype or device is wrong.
        ncfast.DataError: A label is out of range, or a feature that counts is NaN or Inf.

    Source: Papyan, Han and Donoho (2020), Sigma_W; unnormalised here.

    >>> x, y = torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 0])
    >>> within_class_scatter(x, y, torch.tensor([[2.0, 0.0]])).tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """
    op = "within_class_scatter"
    y = require_tokens(op, x, y)
    state = (torch.float64,) if x.dtype == torch.float64 else (torch.float32, torch.float64)
    require(op, "means", means, ("V", x.shape[1]), state, like=x)
    return torch.ops.ncfast.within_class_scatter(x, y, means)
