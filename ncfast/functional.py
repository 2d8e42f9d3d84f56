"""Differentiable functions, one per op: they validate, document, and call ``torch.ops.ncfast``.

Letters: N tokens, V classes (the vocabulary), D width, K classes selected. A label of
``IGNORE_INDEX`` (-100) drops its token. Sums are kept in float32, or float64 where an input is
float64; every result is the same bits on repeat and at any thread count.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import ops as _ops  # noqa: F401  registers torch.ops.ncfast
from .functional_checks import center_tensor as _center_tensor
from .functional_checks import require as _require
from .functional_checks import require_index as _require_index
from .functional_checks import require_tokens as _require_tokens
from .functional_cross_entropy import linear_cross_entropy, linear_cross_entropy_bytes
from .functional_pairs import linear_argmax, nearest_center, pair_stats
from .ops._register import FLOATS, accumulation_dtype
from .reference.checks import IGNORE_INDEX

__all__ = [
    "IGNORE_INDEX",
    "accumulate_class_moments_",
    "alignment",
    "between_class_scatter",
    "class_moments",
    "linear_argmax",
    "linear_cross_entropy",
    "linear_cross_entropy_bytes",
    "nearest_center",
    "pair_stats",
    "within_class_scatter",
]


def class_moments(x: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""Reduce features to the count, mean and spread of every class.

    .. math:: n_c = |\{i: y_i = c\}|, \quad \mu_c = \frac{1}{n_c} \sum_{i: y_i=c} x_i, \quad
              m2_c = \sum_{i: y_i=c} \|x_i - \mu_c\|^2

    Args:
        x: [N, D] float16, bfloat16, float32 or float64, the features.
        y: [N] int64, each token's class in ``[0, num_classes)``, or -100 to ignore the token.
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
    _require_tokens("class_moments", x, y)
    if num_classes < 1:
        raise ValueError(f"class_moments: num_classes is {num_classes}; expected at least 1")
    return torch.ops.ncfast.class_moments(x, y, num_classes)


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
        y: [N] int64 classes, or -100 to ignore the token.

    Everything is checked before anything is changed. No gradients. Classes absent from the batch
    are not read or written.

    Raises:
        ValueError, TypeError: A shape, dtype or device is wrong.
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
    _require_tokens(op, x, y)
    exact = (torch.float64,)
    width = x.shape[1]
    state = exact if x.dtype == torch.float64 else (torch.float32, torch.float64)
    _require(op, "means", means, ("V", width), state, x)
    classes = means.shape[0]
    _require(op, "counts", counts, (classes,), (torch.int64,), x)
    _require(op, "m2", m2, (classes,), exact, x)
    if scatter is not None:
        _require(op, "scatter", scatter, (width, width), exact, x)
    torch.ops.ncfast.accumulate_class_moments_(counts, means, m2, scatter, x.detach(), y)


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
    _require_tokens(op, x, y)
    state = (torch.float64,) if x.dtype == torch.float64 else (torch.float32, torch.float64)
    _require(op, "means", means, ("V", x.shape[1]), state, x)
    return torch.ops.ncfast.within_class_scatter(x, y, means)


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
    _require(op, "means", means, ("V", "D"), FLOATS)
    _require_index(op, index, means)
    count = means.shape[0] if index is None else index.shape[0]
    if weights is not None:
        _require(op, "weights", weights, (count,), FLOATS, means)
        weights = weights.detach().to(torch.float64)
    middle = _center_tensor(op, means, center, index, accumulation_dtype(means))
    return torch.ops.ncfast.between_class_scatter(means, weights, middle, index)


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
    _require(op, "points", points, ("V", "D"), FLOATS)
    _require(op, "head_weight", head_weight, tuple(points.shape), FLOATS, points)
    _require_index(op, index, points)
    middle = _center_tensor(op, points, center, index, accumulation_dtype(head_weight, points))
    return torch.ops.ncfast.alignment(head_weight, points, middle, index)
