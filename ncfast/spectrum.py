"""The eigenvalues of Sigma_B that mean something, and what is spread along their directions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import DataError
from .geometry import Rows

__all__ = ["Spectrum", "spectrum", "within_over_between"]


@dataclass(frozen=True)
class Spectrum:
    """Hold the eigenvalues of Sigma_B that are more than rounding, largest first."""

    values: Tensor  # [R] float64
    vectors: Tensor  # [D, R] float64, orthonormal columns
    # the least ratio of a value to its cut-off, more than 1; infinite where none is kept
    kept: float
    dropped: float  # the largest ratio of a value that was left out, at most 1; 0 where none was

    @property
    def rank(self) -> int:
        """R."""
        return self.values.numel()


def spectrum(rows: Rows, gram: Tensor, noise: Callable[[Tensor], Tensor] | None = None) -> Spectrum:
    r"""Decompose :math:`\Sigma_B = \frac1K \sum_i r_i r_i^\top`.

    An eigenvalue is kept where it is above its cut-off: max(K, D) times the float64 epsilon of the
    largest one, which is how far the decomposition errs, plus what the errors of the rows
    themselves may amount to in that direction.

    Args:
        rows: the centred class means.
        gram: [D, D], ``rows.gram()``.
        noise: takes [D, R] orthonormal columns and returns [R], the most that errors of the rows
            may add to the eigenvalue of each; None for rows that are exact.

    Returns:
        What is above the cut-off, as a pseudo-inverse needs it. Below D rows the smaller [K, K]
        problem is solved, which has the same values.

    >>> rows = Rows(torch.tensor([[1.0, 1e-4], [-1.0, -2e-4]]).double(), torch.arange(2))
    >>> spectrum(rows, rows.gram()).rank
    2
    >>> spectrum(rows, rows.gram(), lambda vectors: vectors[0] * 0 + 1e-6).rank
    1
    """
    if rows.count < rows.width:
        matrix = torch.cat(list(rows.parts()))
        values, vectors = torch.linalg.eigh(matrix @ matrix.T / rows.count)
        # What is not positive has no direction among the columns.
        vectors = matrix.T @ vectors / (values.clamp(min=0) * rows.count).sqrt()
        vectors = vectors.nan_to_num(0.0, 0.0, 0.0)
    else:
        values, vectors = torch.linalg.eigh(gram / rows.count)
    values, vectors = values.flip(0), vectors.flip(1)
    share = max(rows.count, rows.width) * torch.finfo(torch.float64).eps
    cut = share * values[:1].clamp(min=0).expand_as(values)
    if noise is not None:
        cut = cut + noise(vectors)
    above = values > cut
    ratios = torch.where(cut > 0, values.clamp(min=0) / cut, values.sign() * math.inf)
    kept = float(ratios[above].min()) if bool(above.any()) else math.inf
    dropped = float(ratios[~above].nan_to_num(0.0).max()) if not bool(above.all()) else 0.0
    return Spectrum(values[above], vectors[:, above], kept, dropped)


def within_over_between(
    found: Spectrum, within: Tensor, count: int, terms: int, unit: float = 2.0**-24
) -> float:
    r"""Return :math:`\mathrm{tr}(\Sigma_B^+ \Sigma_W) / K`, keeping the largest eigenvalues.

    Args:
        found: the spectrum of Sigma_B.
        within: [D, D] float64, Sigma_W.
        count: K.
        terms: how many eigenvalues to keep at most.
        unit: the unit roundoff of the products that ``within`` was summed from.

    Returns:
        At least 0. A quadratic form :math:`v^\top \Sigma_W v` that rounding has put below 0, by no
        more than D ``unit`` :math:`\mathrm{tr} \Sigma_W`, counts as 0.

    Raises:
        ncfast.DataError: One is further below 0, so that ``within`` is no sum of squares.

    Source: Papyan, Han and Donoho (2020), NC1.

    >>> rows = Rows(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.arange(2))
    >>> within_over_between(spectrum(rows, rows.gram()), torch.eye(2).double(), 2, 2)
    0.5
    """
    values, vectors = found.values[:terms], found.vectors[:, :terms]
    spread = (vectors * (within @ vectors)).sum(0)
    tolerance = within.shape[0] * unit * float(within.trace())
    if bool((spread < -tolerance).any()):
        raise DataError(
            f"within_over_between: Sigma_W has {float(spread.min()):g} along a direction; expected "
            f"nothing below {-tolerance:g}, which is what rounding explains"
        )
    return float((spread.clamp(min=0) / values).sum()) / count
