"""The class of the nearest mean, for every token."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import require_classes

__all__ = ["nearest_center"]


def nearest_center(x: Tensor, means: Tensor, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Choose each token's nearest class mean, without ever storing the distances.

    .. math:: c_i = \arg\min_k \|x_i - \mu_k\|
              = \arg\max_k \; \langle x_i, \mu_k \rangle - \tfrac{1}{2} \|\mu_k\|^2

    Args:
        x: [N, D] float features.
        means: [V, D] float, the class means.
        index: [K] int64, the classes to choose among, each once; None allows all V. Rows left out
            are never read. Absent classes should be left out: their zero means would be chosen.

    Returns:
        classes [N] int64, ids in [0, V), the lowest of those that tie. margin [N] float32 (float64
        if an input is): half the difference of the squared distances to the second nearest mean
        and the nearest, 0 at a tie, inf where there is only one class.

    No gradients: both outputs are detached.

    Raises:
        ValueError, TypeError: A shape, dtype or device is wrong, or there is no class.
        ncfast.DataError: An index is out of range or doubled; a feature or a visited mean is not
            finite.

    Source: NC4, the nearest-class-center decision; Papyan, Han and Donoho (2020).

    >>> classes, margin = nearest_center(torch.tensor([[1.0], [4.0]]), torch.tensor([[0.0], [5.0]]))
    >>> classes.tolist(), margin.tolist()
    ([0, 1], [7.5, 7.5])
    """
    op = "nearest_center"
    require_classes(op, "means", means, x, index)
    return torch.ops.ncfast.nearest_center(x.detach(), means.detach(), index)
