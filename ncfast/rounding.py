r"""How far stored points lie from what exact arithmetic would give, and what that hides.

A difference of two class means, or of two rows of a head, is known up to their errors only: points
may be equal where :math:`\|p_a - p_b\| \le \|e_a\| + \|e_b\|` (triangle inequality), a mean has
no direction where :math:`\|m_c\| \le \|e_c\| + \|e_0\|` with the error :math:`e_0` of the center,
and two directions, each known to :math:`\rho = (\|e_c\| + \|e_0\|) / \|m_c\|`, may be equal where
:math:`\|\hat m_a - \hat m_b\| \le \rho_a + \rho_b`. What divides by such a difference leaves the
pair or the class out: a metric counts it, a term of training gives it no gradient.

Of a center that is the mean of K means with weights :math:`w_c`, errors being independent,
:math:`\|e_0\|^2 = \sum_c w_c^2 \|e_c\|^2`.

A class mean is a running mean of n terms, each step rounded to the state's dtype with unit
roundoff u. A step errs by at most :math:`u |x_d|`, with variance at most :math:`u^2 x_d^2 / 3`;
what was erred after j of n terms enters the end with j / n, so that
:math:`E (e_d)^2 \le \frac{u^2}{3} E x_d^2 \sum_{j \le n} (j/n)^2 \approx u^2 E x_d^2 n / 9`.
The features themselves are rounded by at most :math:`u |x_d|` each, which averages out as 1 / n,
and the result once more. With :math:`\|\cdot\|` over all axes, and taken at two standard
deviations,

.. math:: \|e_c\|^2 \le 4 u^2 (\|\mu_c\|^2 + \sigma_c^2)
          \left(1 + \frac{1}{n_c} + \frac{n_c}{9}\right)

A row of a head was rounded once, to the dtype it is stored in: :math:`\|e\| \le u \|w\|`, and at
most half the dtype's least step on every axis.

Rounding before anything was given (a model in bfloat16 whose output was converted) cannot be known.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["SINGLE", "center_error", "mean_errors", "row_errors", "unit_roundoff"]

SINGLE = torch.finfo(torch.float32).eps / 2


def unit_roundoff(dtype: torch.dtype) -> float:
    """Return the most that rounding to a dtype changes a number, as a share of it.

    >>> unit_roundoff(torch.float32) == 2**-24
    True
    """
    return torch.finfo(dtype).eps / 2


def mean_errors(
    squares: Tensor, counts: Tensor, unit: float, half: float = 0.0, steps: Tensor | None = None
) -> Tensor:
    """Return [K] float64, the squared error of class means, as the module's text derives.

    Args:
        squares: [K], the mean square length of a class's tokens.
        counts: [K], tokens a mean is of; below 1 counts as 1.
        unit: unit roundoff of the sums.
        half: unit roundoff of features that were stored in half precision; 0 for others.
        steps: [K], after how many roundings the mean is what it is; None means ``counts``.

    >>> one = torch.ones(1)
    >>> mean_errors(one, 9 * one, 2**-24).mul(2**48).tolist()  # 4 (1 + 1/9 + 1)
    [8.444...]
    """
    squares, counts = squares.double(), counts.double().clamp(min=1)
    steps = counts if steps is None else steps.double().clamp(min=1)
    return squares * (4 * unit**2 * (1 + 1 / counts + steps / 9) + half**2 / counts)


def row_errors(lengths: Tensor, dtype: torch.dtype, width: int) -> Tensor:
    """Return [K] float64, the squared error of rows of these lengths that were rounded once.

    Args:
        lengths: [K], their norms.
        dtype: what they are stored in.
        width: D.

    >>> row_errors(torch.ones(1), torch.bfloat16, 4).sqrt().item() == 2**-8
    True
    """
    kind = torch.finfo(dtype)
    least = width * (kind.smallest_normal * kind.eps / 2) ** 2
    return (lengths.double() * unit_roundoff(dtype)).square() + least


def center_error(errors: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return [] float64, the error of a weighted mean of means, not squared.

    Args:
        errors: [K], the squared errors of the means.
        weights: [K], at least 0; their sum is taken for 1. None for a plain mean.

    >>> center_error(torch.ones(4)).item()
    0.5
    """
    weights = torch.ones_like(errors) if weights is None else weights.double()
    shares = weights / torch.where(weights.sum() > 0, weights.sum(), 1)
    return (shares.square() * errors).sum().sqrt()
