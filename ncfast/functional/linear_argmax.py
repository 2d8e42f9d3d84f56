"""The class of highest score, for every token."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops._metadata import FLOATS
from .checks import require, require_classes

__all__ = ["linear_argmax"]


def linear_argmax(
    x: Tensor, head_weight: Tensor, head_bias: Tensor | None = None, index: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Choose each token's class of highest score, without ever storing the scores.

    .. math:: c_i = \arg\max_k \; \langle x_i, w_k \rangle + b_k

    Args:
        x: [N, D] float features.
        head_weight: [V, D] float, the head's rows.
        head_bias: [V] float, or None.
        index: [K] int64, the classes to choose among, each once; None allows all V. Rows left out
            are never read.

    Returns:
        classes [N] int64, ids in [0, V), the lowest of those that tie. margin [N] float32 (float64
        if an input is): the highest score less the second highest, 0 at a tie, inf where there is
        only one class.

    No gradients: both outputs are detached. A softcap changes no argmax.

    Raises:
        ValueError, TypeError: A shape, dtype or device is wrong, or there is no class.
        ncfast.DataError: An index is out of range or doubled; a feature or a visited row of the
            head is not finite.

    Source: the classifier's side of NC4; Papyan, Han and Donoho (2020).

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    >>> [t.tolist() for t in linear_argmax(x, torch.eye(2))]
    [[0, 1], [1.0, 3.0]]
    """
    op = "linear_argmax"
    require_classes(op, "head_weight", head_weight, x, index)
    if head_bias is not None:
        require(op, "head_bias", head_bias, (head_weight.shape[0],), FLOATS, x)
        head_bias = head_bias.detach()
    return torch.ops.ncfast.linear_argmax(x.detach(), head_weight.detach(), head_bias, index)
