"""The count, mean and spread of every class of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import require_tokens

__all__ = ["class_moments"]


def class_moments(x: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""Reduce features to the count, mean and spread of every class.

    .. math:: n_c = |\{i: y_i = c\}|, \quad \mu_c = \frac{1}{n_c} \sum_{i: y_i=c} x_i, \quad
              m2_c = \sum_{i: y_i=c} \|x_i - \mu_c\|^2

    Args:
        x: [N, D] float16, bfloat16, float32 or float64, the features.
        y: [N] integers, each token's class in ``[0, num_classes)``, or -100 to ignore the token.
        num_classes: V, the number of classes.

    Returns:
        counts [V] int64, means [V, D] and m2 [V] in float32 (float64 for float64 features). A class
        that does not occur has count, mean and m2 zero.

    Gradients flow to x through means and m2; counts have none. Second derivatives raise.

    Raises:
        ValueError, TypeError: A shape, dtype or device is wrong.
        ncfast.DataError: A label is out of range, or a feature that counts is NaN or Inf.

    Source: class means and variances of Linguistic Collapse (arXiv 2405.17767), eq. 1-3.

    >>> x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 5.0]])
    >>> counts, means, m2 = class_moments(x, torch.tensor([2, 2, 0]), 3)
    >>> counts.tolist(), means[2].tolist(), m2.tolist()
    ([1, 0, 2], [2.0, 0.0], [0.0, 0.0, 2.0])
    """
    y = require_tokens("class_moments", x, y)
    if num_classes < 1:
        raise ValueError(f"class_moments: num_classes is {num_classes}; expected at least 1")
    return torch.ops.ncfast.class_moments(x, y, num_classes)
