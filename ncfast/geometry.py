"""What D x D algebra gives exactly: moments of cosines, simplex errors.

Rows are read in float64, a few thousand at a time, and summed in float64. With K rows of width D
this costs K D^2 and no memory of K^2, where the pairs themselves would cost K^2 D.

Two of the forms subtract numbers that are nearly equal when classes have collapsed. They are then
taken from the pairs themselves, tile by tile. That stays cheap: a Gram matrix of rank D can be near
a simplex only if K <= D + 1, so K^2 is then no more than (D + 1)^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from . import functional as F

__all__ = [
    "Rows",
    "cosine_moments",
    "mean_of_rows",
    "mean_squared_distance",
    "simplex_error",
    "sum_of_rows",
    "unit_rows",
]

ROWS = 1024  # rows in float64 at a time: 6 MiB at D = 768
TILE = 1024  # rows of a tile of pairs: 8 MiB
# A difference below this share of its terms is taken from pairs. Rounding in K D^2 sums is about
# 1e-15 of the terms, so what is kept is good to 1e-9; a simplex error switches at 1e-3.
CANCELS = 1e-6
ONE_DIRECTION = 1e-28  # cosines that differ by less than 1e-14 differ by rounding alone


@dataclass(frozen=True)
class Rows:
    """Name K rows of a matrix, measured from a center.

    >>> rows = Rows(torch.eye(3), torch.tensor([0, 2]), torch.full((3,), 0.5).double())
    >>> rows.count, rows.gram().trace().item()
    (2, 1.5)
    """

    points: Tensor  # [V, D] float, the class means or head rows
    index: Tensor  # [K] int64, the rows
    center: Tensor | None = None  # [D] float64 to subtract; None subtracts nothing
    blank: Tensor | None = None  # [K] bool, rows to read as zero, whatever they hold; None for none

    @property
    def count(self) -> int:
        """K."""
        return self.index.numel()

    @property
    def width(self) -> int:
        """D."""
        return self.points.shape[1]

    def parts(self, size: int = ROWS) -> Iterator[Tensor]:
        """Yield the rows less the center in float64, up to ``size`` at a time."""
        for i, part in enumerate(self.index.split(size)):
            rows = self.points.detach()[part].double()
            if self.center is not None:
                rows = rows - self.center
            if self.blank is not None:
                rows = rows.masked_fill(self.blank[i * size : (i + 1) * size, None], 0.0)
            yield rows

    def some(self, places: Tensor) -> Rows:
        """Return those of the rows that stand at ``places``."""
        blank = None if self.blank is None else self.blank[places]
        return Rows(self.points, self.index[places], self.center, blank)

    def gram(self) -> Tensor:
        """Return [D, D] float64, the sum of outer products of the rows."""
        return _sum_of_outer_products(self.parts(), self.points)


def _sum_of_outer_products(parts: Iterator[Tensor], like: Tensor) -> Tensor:
    total = torch.zeros(like.shape[1], like.shape[1], dtype=torch.float64, device=like.device)
    for rows in parts:
        total += F.between_class_scatter(rows, None, "none")
    return total


def sum_of_rows(rows: Rows) -> Tensor:
    """Return [D] float64, the sum of the rows less the center."""
    return torch.stack([part.sum(0) for part in rows.parts()]).sum(0)


def mean_of_rows(points: Tensor, index: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return [D] float64, the mean of the rows that ``index`` names, by ``weights`` [K] if any."""
    total = torch.zeros(points.shape[1], dtype=torch.float64, device=points.device)
    shares = index if weights is None else weights
    for rows, share in zip(Rows(points, index).parts(), shares.split(ROWS), strict=True):
        total += rows.sum(0) if weights is None else share.double() @ rows
    return total / (index.numel() if weights is None else weights.sum().double())


def unit_rows(rows: Tensor) -> Tensor:
    """Return rows scaled to length 1; a zero row has no direction and stays zero."""
    norms = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1.0)


def mean_squared_distance(rows: Rows, gram: Tensor) -> float:
    r"""Return the mean of :math:`\|p_i - p_j\|^2` over pairs, NaN below two rows.

    A center near the rows' mean keeps every digit; ``gram`` is ``rows.gram()``.

    >>> rows = Rows(torch.tensor([[0.0], [1.0], [3.0]]), torch.arange(3))
    >>> round(mean_squared_distance(rows, rows.gram()), 12)  # (1 + 4 + 9) / 3
    4.666666666667
    """
    count = rows.count
    if count < 2:
        return math.nan
    total = sum_of_rows(rows)
    return float(count * gram.trace() - total @ total) * 2 / (count * (count - 1))


def cosine_moments(rows: Rows) -> tuple[float, float]:
    r"""Return mean and Bessel-corrected std of the cosines over pairs of rows.

    With unit rows :math:`u_i`, their mean :math:`a`, :math:`\delta_i = u_i - a` and
    :math:`p_i = a \cdot \delta_i`, a cosine is :math:`|a|^2 + p_i + p_j + \delta_i \cdot \delta_j`
    and the sum of squares over all ordered pairs of what differs between pairs is
    :math:`2 K \sum p_i^2 + \|\sum \delta_i \delta_i^\top\|_F^2`, whose diagonal is taken off.
    So nothing cancels when all directions are nearly the same; where all cosines are nearly the
    same, as in a simplex, the spread is taken from the pairs.

    A zero row has cosine 0 with every other. Mean is NaN below two rows, std below three.

    Source: mean and variance of interference, Linguistic Collapse (arXiv 2405.17767), eq. 6.

    >>> mean, std = cosine_moments(Rows(torch.eye(3) - 1 / 3, torch.arange(3)))
    >>> round(mean, 6), round(std, 6)
    (-0.5, 0.0)
    """
    count = rows.count
    if count < 2:
        return math.nan, math.nan
    shift = torch.stack([unit_rows(part).sum(0) for part in rows.parts()]).sum(0) / count
    gram = torch.zeros(rows.width, rows.width, dtype=torch.float64, device=shift.device)
    projections = own_sum = own_squares = 0.0
    for part in rows.parts():
        difference = unit_rows(part) - shift
        projection = difference @ shift
        # What the pair of a row with itself would add.
        own = 2 * projection + difference.square().sum(1)
        projections += float(projection.square().sum())
        own_sum += float(own.sum())
        own_squares += float(own.square().sum())
        gram += F.between_class_scatter(difference, None, "none")
    ordered = count * (count - 1)
    mean = float(shift @ shift) - own_sum / ordered
    terms = (2 * count * projections + float(gram.square().sum())) / ordered
    variance = terms - own_squares / ordered - (own_sum / ordered) ** 2
    if variance < CANCELS * terms and terms > ONE_DIRECTION:
        variance = _variance_of_cosines(rows, mean)
    variance = max(variance, 0.0)
    pairs = ordered // 2
    return mean, math.sqrt(variance * pairs / (pairs - 1)) if pairs > 1 else math.nan


def _variance_of_cosines(rows: Rows, mean: float) -> float:
    """Return the population variance over pairs i < j, visiting each."""
    total = squares = 0.0
    for i, left in enumerate(rows.parts(TILE)):
        for j, right in enumerate(rows.parts(TILE)):
            if j < i:
                continue
            difference = unit_rows(left) @ unit_rows(right).T - mean
            difference = difference.triu(1) if i == j else difference
            total += float(difference.sum())
            squares += float(difference.square().sum())
    pairs = rows.count * (rows.count - 1) / 2
    return max(squares / pairs - (total / pairs) ** 2, 0.0)


def simplex_error(
    left: Rows,
    right: Rows,
    gram_left: Tensor,
    gram_right: Tensor,
    places: Tensor | None = None,
    add: Callable[[Tensor], Tensor] | None = None,
) -> float:
    r"""Return how far the products of two sets of rows are from a simplex.

    .. math:: \left\| \frac{A}{\|A\|_F} - \frac{I - 11^\top / K}{\sqrt{K - 1}} \right\|_F
              = \sqrt{2 - 2\, \frac{\mathrm{tr} A - 1^\top A 1 / K}{\sqrt{K - 1} \|A\|_F}}, \quad
              A_{ij} = \langle l_i, r_j \rangle, \;
              \|A\|_F^2 = \langle L^\top L, R^\top R \rangle

    Args:
        left, right: K rows each; the same for the simplex error of class means, head rows and
            centred class means for the joint duality error.
        gram_left, gram_right: ``left.gram()`` and ``right.gram()``.
        places: [k] int64, where the rows of ``left`` stand among those of ``right``, if it holds
            some of them only; ``gram_left`` is of all.
        add: Returns the sum of a tensor over those who hold the others.

    Returns:
        0 for a simplex, at most 2; NaN below two rows or where every product is zero.

    Source: Papyan, Han and Donoho (2020), NC2 and NC3.

    >>> rows = Rows(torch.eye(3) - 1 / 3, torch.arange(3))
    >>> simplex_error(rows, rows, rows.gram(), rows.gram()) < 1e-7
    True
    """
    count = right.count
    norm = math.sqrt(max(float((gram_left * gram_right).sum()), 0.0))
    if count < 2 or norm == 0:
        return math.nan
    if left is right:
        total = sum_of_rows(left)
        trace, whole = float(gram_left.trace()), float(total @ total)
    else:
        trace, whole = _products(left, right, places, add)
    overlap = (trace - whole / count) / (math.sqrt(count - 1) * norm)
    squared = 2 - 2 * overlap
    if squared < CANCELS:
        own = _squared_simplex_error(left, right, norm, places)
        squared = float(own if add is None else add(own))
    return math.sqrt(squared)


def _products(
    left: Rows, right: Rows, places: Tensor | None, add: Callable[[Tensor], Tensor] | None
) -> tuple[float, float]:
    """Return the sum of the products of rows with their partners, and of all with all."""
    partners = right if places is None else right.some(places)
    # Of left with its partners, then of left alone.
    sums = torch.zeros(1 + left.width, dtype=torch.float64, device=left.points.device)
    for a, b in zip(left.parts(), partners.parts(), strict=True):
        sums[0] += a.flatten() @ b.flatten()
        sums[1:] += a.sum(0)
    sums = sums if add is None else add(sums)
    return float(sums[0]), float(sums[1:] @ sum_of_rows(right))


def _squared_simplex_error(left: Rows, right: Rows, norm: float, places: Tensor | None) -> Tensor:
    """Return the squared error entry by entry, [] float64."""
    device, count = left.points.device, right.count
    total = torch.zeros((), dtype=torch.float64, device=device)
    places = torch.arange(count, device=device) if places is None else places
    scale = 1 / math.sqrt(count - 1)
    for a, partners in zip(left.parts(TILE), places.split(TILE), strict=True):
        for j, b in enumerate(right.parts(TILE)):
            difference = a @ b.T / norm + scale / count
            columns = partners - j * TILE
            here = ((columns >= 0) & (columns < len(b))).nonzero()[:, 0]
            difference[here, columns[here]] -= scale
            total += difference.square().sum()
    return total
