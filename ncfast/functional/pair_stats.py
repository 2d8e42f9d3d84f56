"""Sums of functions of every pair of points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops._metadata import FLOATS, accumulation_dtype
from ..reference.pair_stats import CENTRED, KINDS, LARGEST_POWER, LOGARITHMIC
from .checks import center_tensor, require, require_index

__all__ = ["LOGARITHMIC", "pair_stats"]


def _power(kind: str, given: int | None, width: int) -> int:
    """Return the power of a kind, its default for None, or raise."""
    if kind == "riesz":
        power = width - 2 if given is None else given
        if not isinstance(power, int | torch.SymInt) or power < 1 or power > LARGEST_POWER:
            default = f", D - 2 of points [V, {width}]" if given is None else ""
            raise ValueError(
                f"pair_stats: the power of riesz is {power!r}{default}; expected an integer from 1 "
                f"to {LARGEST_POWER}"
            )
        return power
    power = 1 if given is None else given
    if power not in ((1, 2) if kind == "cdnv" else (1,)):
        expected = "1 or 2" if kind == "cdnv" else "1"
        raise ValueError(f"pair_stats: the power of {kind} is {power!r}; expected {expected}")
    return power


def _kind_numbers(
    kinds: Sequence[str],
    powers: Sequence[int | None] | None,
    targets: Sequence[float] | None,
    width: int,
) -> tuple[list[int], list[int], list[float]]:
    """Check what is asked of every pair, and number the kinds."""
    if isinstance(kinds, str) or not len(kinds) or not set(kinds) <= set(KINDS):
        raise ValueError(f"pair_stats: kinds is {kinds!r}; expected one or more of {KINDS}")
    for name, given in (("powers", powers), ("targets", targets)):
        if given is not None and len(given) != len(kinds):
            raise ValueError(
                f"pair_stats: {name} is {given!r}; expected one per kind, {len(kinds)}"
            )
    given = [None] * len(kinds) if powers is None else powers
    exponents = [_power(kind, power, width) for kind, power in zip(kinds, given, strict=True)]
    target_values = [0.0] * len(kinds) if targets is None else [float(target) for target in targets]
    if not all(abs(value) < float("inf") for value in target_values):
        raise ValueError(f"pair_stats: targets is {targets!r}; expected finite values")
    return [KINDS.index(kind) for kind in kinds], exponents, target_values


def pair_stats(
    points: Tensor,
    variances: Tensor | None = None,
    center: Tensor | str | None = "classes",
    kinds: Sequence[str] = ("cdnv",),
    powers: Sequence[int | None] | None = None,
    targets: Sequence[float] | None = None,
    index: Tensor | None = None,
    edges: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Sum functions of every unordered pair of points, several in one visit of each pair.

    .. math:: \text{cdnv}_{ab} = \frac{\sigma_a^2 + \sigma_b^2}{2 \|\mu_a - \mu_b\|^{2p}}, \quad
              \text{log\_distance}_{ab} = \log \frac{1}{\|\hat\mu_a - \hat\mu_b\|}, \quad
              \text{cosine}_{ab} = \langle \hat\mu_a, \hat\mu_b \rangle, \quad
              \hat\mu = \frac{\mu - c}{\|\mu - c\|}

    log_distance_raw, the logarithm of one over the distance of the points as they are, and riesz,
    the Riesz s-energy :math:`\|\hat\mu_a - \hat\mu_b\|^{-s}` of a pair. Energies leave the range of
    every float, so that a value of riesz is the logarithm of one, s times log_distance, and its
    sums are of logarithms as well: log sum exp of the values.

    Args:
        points: [V, D] float, the class means or the head's rows.
        variances: [V] float, at least 0, the mean squared distance of a class's tokens to its mean;
            what cdnv needs. Others ignore it.
        center: c, which cosine, log_distance and riesz measure from: ``"classes"`` (mean of the
            visited points), ``"none"``, or a [D] tensor. Distances of the points as they are do not
            change.
        kinds: P of ``"cdnv"``, ``"log_distance"``, ``"cosine"``, ``"log_distance_raw"`` and
            ``"riesz"``.
        powers: One per kind: p, 1 or 2, for cdnv; s, 1 to 2^24, for riesz; 1 for others. None, as
            one of them or for all, means D - 2 for riesz and 1 for others.
        targets: One per kind, what the sum of absolute deviations measures from; None means 0.
        index: [K] int64, the rows to visit, each once; None visits all V. A row left out is never
            read. Absent classes should be left out: their zero means would count.
        edges: [P, B+1] float64, the edges of B bins per kind, of one width to within a thousandth.
            A value goes to bin floor((value - first) B / (last - first)), computed in the dtype of
            the sums; the last edge belongs to the last bin. Values beyond the edges are counted
            nowhere.

    Returns:
        stats [P, 6] float64: pairs that count, sum, sum of squares, least, greatest, sum of
        ``|value - target|``; least and greatest are NaN without a pair. Of riesz the sums are
        :math:`\log \sum e^v` and :math:`\log \sum e^{2v}` of the values v, so that the mean energy
        is exp(sum) / pairs; they are -inf without a pair. histogram [P, B] int64
        ([P, 0] without edges). coincident [P] int64: pairs at distance exactly 0, and for
        log_distance and riesz pairs with a point at the center, which has no direction; stats and
        histogram leave them out (an energy would be infinite). For cosine only pairs with a point
        at the center: as in :func:`alignment` their cosine is 0, and stats and histogram hold them.

    Values are formed in float32 (float64 for float64 points): a distance is found from a product of
    points and, where the pair is close, again from their differences. Cosines are kept in [-1, 1].

    Gradients flow to points, variances and center (through ``"classes"`` as well), from the sum
    and the sum of squares; coincident pairs give none. Second derivatives raise.

    Raises:
        ValueError, TypeError: A shape, dtype, device, kind, power or target is wrong.
        ncfast.DataError: An index is out of range or doubled; a visited point, a variance or the
            center is not finite; a variance is negative; bins are not of one width.

    Source: cdnv: Galanti, Gyorgy and Hutter (2022); its power 2, log_distance (GNC2) and cosine
    (NC2): Linguistic Collapse (arXiv 2405.17767), eq. 3, 6, 7; riesz with s = D - 2:
    Hyperspherical Uniformity Gap (arXiv 2303.06484); on the head's rows: Collapsed Language Models
    Promote Fairness (arXiv 2410.04472), section 3.2.2.

    >>> points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    >>> stats, _, coincident = pair_stats(points, torch.tensor([1.0, 3.0, 5.0]))
    >>> stats[0, 0].item(), round(stats[0, 1].item(), 6), coincident.tolist()
    (2.0, 0.24, [1])

    Three unit vectors at right angles: every pair has the energy 2^(-s/2), here 1/2.

    >>> stats, _, _ = pair_stats(torch.eye(3), center="none", kinds=("riesz",), powers=(2,))
    >>> round(stats[0, 1].exp().item(), 6)
    1.5
    """
    op = "pair_stats"
    require(op, "points", points, ("V", "D"), FLOATS)
    numbers, exponents, target_values = _kind_numbers(kinds, powers, targets, points.shape[1])
    require_index(op, index, points)
    spread = None
    if "cdnv" in kinds:
        if variances is None:
            raise ValueError(f"{op}: variances is None; expected float [V], which cdnv needs")
        require(op, "variances", variances, (points.shape[0],), FLOATS, like=points)
        spread = variances.to(torch.float64)
    if edges is not None:
        require(op, "edges", edges, (len(kinds), "B+1"), (torch.float64,), like=points)
        if edges.shape[1] < 2:
            raise ValueError(f"{op}: edges is {tuple(edges.shape)}; expected two or more per kind")
    of_center = points
    if not CENTRED & set(kinds) and not isinstance(center, Tensor):
        # Any center will do, and products of points lose least about their own.
        of_center, center = points.detach(), "classes" if center in (None, "none") else center
    center_row = center_tensor(op, of_center, center, index, accumulation_dtype(points))
    return torch.ops.ncfast.pair_stats(
        points, spread, center_row, index, edges, numbers, exponents, target_values
    )
