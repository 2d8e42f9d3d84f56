"""Running class moments, grown in place by a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import require, require_own_memory, require_tokens

__all__ = ["accumulate_class_moments_"]


def accumulate_class_moments_(
    counts: Tensor, means: Tensor, m2: Tensor, scatter: Tensor | None, x: Tensor, y: Tensor
) -> None:
    r"""Merge a batch into running class moments, in place, touching only the rows that occur.

    .. math:: n = n_a + n_b, \; d = \mu_b - \mu_a, \; \mu = \mu_a + \tfrac{n_b}{n} d, \;
              m2 = m2_a + m2_b + \tfrac{n_a n_b}{n} \|d\|^2, \;
              S = S_a + S_b + \sum_c \tfrac{n_a n_b}{n} d d^\top

    Args:
        counts: [V] int64, tokens seen of each class; updated.
        means: [V, D] float32 or float64, the running means; updated.
        m2: [V] float64, sums of squared distances to the class mean; updated.
        scatter: [D, D] float64, the pooled within-class scatter; updated. None skips it.
        x: [N, D] float features, of at most the precision of ``means``.
        y: [N] integer classes, or -100 to ignore the token.

    Everything is checked before anything is changed. No gradients. Classes absent from the batch
    are not read or written.

    Raises:
        ValueError, TypeError: A shape, dtype or device is wrong, or elements of what is to be
            updated share memory: with each other (an expanded tensor), with another tensor that
            is updated, or with x or y.
        ncfast.DataError: A label is out of range, or a feature that counts is NaN or Inf.

    Source: Chan, Golub and LeVeque (1979), the pairwise merge of mean and sum of squares.

    >>> counts = torch.zeros(2, dtype=torch.int64)
    >>> means, m2 = torch.zeros(2, 1), torch.zeros(2, dtype=torch.float64)
    >>> for value in (1.0, 3.0):
    ...     accumulate_class_moments_(
    ...         counts, means, m2, None, torch.tensor([[value]]), torch.tensor([1]))
    >>> counts.tolist(), means[1].tolist(), m2.tolist()
    ([0, 2], [2.0], [0.0, 2.0])
    """
    op = "accumulate_class_moments_"
    y = require_tokens(op, x, y)
    exact = (torch.float64,)
    width = x.shape[1]
    state = exact if x.dtype == torch.float64 else (torch.float32, torch.float64)
    require(op, "means", means, ("V", width), state, like=x)
    classes = means.shape[0]
    require(op, "counts", counts, (classes,), (torch.int64,), like=x)
    require(op, "m2", m2, (classes,), exact, like=x)
    if scatter is not None:
        require(op, "scatter", scatter, (width, width), exact, like=x)
    read = {"x": x, "y": y}
    require_own_memory(op, read, counts=counts, means=means, m2=m2, scatter=scatter)
    torch.ops.ncfast.accumulate_class_moments_(counts, means, m2, scatter, x.detach(), y=y)
