"""GNC2: how evenly class means, or head rows, point in all directions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .known_means import errors_of_head, pair_sums
from .regularizer import Regularizer, unit_scale
from .renamed import classes_last

__all__ = ["UniformityRegularizer"]

KINDS = ("log_distance", "log_distance_raw", "equiangular", "riesz")
POINTS = ("means", "head")


class UniformityRegularizer(Regularizer):
    r"""Penalise directions that crowd together.

    .. math:: \text{log\_distance} = \operatorname{mean}_{a < b}
              \log \frac{1}{\|\hat\mu_a - \hat\mu_b\|}, \quad
              \text{equiangular} = \operatorname{mean}_{a < b}
              \Big( \langle \hat\mu_a, \hat\mu_b \rangle + \frac{1}{K - 1} \Big)^2, \quad
              \text{riesz} = \log \operatorname{mean}_{a < b} \|\hat\mu_a - \hat\mu_b\|^{-(D - 2)}

    with :math:`\hat\mu` the unit vector of a centred class mean, or head row. ``log_distance_raw``
    is of the points as they are, as the calibrated (G)NC2 of head rows.

    Args:
        num_classes: V.
        dim: D.
        classes: K distinct class ids; None for all V.
        of: ``"means"`` (the classes that occur) or ``"head"`` (the rows of all its classes;
            features and labels are not used and may be None).
        kind: ``"log_distance"``, ``"log_distance_raw"``, ``"equiangular"``, or ``"riesz"``, whose
            gradients are of the nearest pairs all but alone; it needs a D of at least 3.
        means, half_life, through, min_count, weight, warn_after, process_group, check_finite: See
            :class:`Regularizer`.

    Call it with features [..., D], labels [...] and head_weight [V, D]. It returns a scalar, never
    NaN: 0 without a pair of distinct directions; pairs that coincide, or differ by no more than
    their rounding (:mod:`ncfast.rounding`), are left out. Pairs are visited in tiles, none is
    stored. It must know whether there are such pairs and, of means, which classes occurred: one or
    two reads from the device per call, and graph breaks under torch.compile. Where pairs differ by
    their rounding, it finds them, and visits all pairs of such points once more, in float64: some
    reads more for every 512 x 512 pairs.

    ``last`` holds ``value``, ``weight``, ``classes``, ``pairs``.

    Source: Linguistic Collapse (arXiv 2405.17767), eq. 6 and 7.

    >>> term = UniformityRegularizer(num_classes=2, dim=2, of="head")
    >>> round(term(None, None, torch.eye(2)).item(), 4)  # centred, they are opposite: ln 1/2
    -0.6931
    """

    measured_by = "log_distance_mean"

    @classes_last
    def __init__(
        self,
        num_classes: int,
        dim: int,
        classes: Any = None,
        *,
        of: str = "means",
        kind: str = "log_distance",
        **settings: Any,
    ) -> None:
        super().__init__(num_classes, dim, classes, **settings)
        if of not in POINTS:
            raise ValueError(f"UniformityRegularizer: of is {of!r}; expected one of {POINTS}")
        if kind not in KINDS:
            raise ValueError(f"UniformityRegularizer: kind is {kind!r}; expected one of {KINDS}")
        if kind == "riesz" and dim < 3:
            raise ValueError(
                f"UniformityRegularizer: dim is {dim}; expected at least 3 for kind='riesz', whose "
                "power is dim - 2"
            )
        self.of, self.kind = of, kind
        if of == "head":
            self._until_warning = None  # it needs no class to occur

    def forward(
        self,
        x: Tensor | None,
        y: Tensor | None,
        head_weight: Tensor | None = None,
        head_bias: Tensor | None = None,
    ) -> Tensor:
        """Return the weighted term."""
        index, moments = None, None
        if self.of == "head":
            if head_weight is None:
                raise ValueError("UniformityRegularizer: of='head' needs head_weight; got None")
            points = self._head(head_weight)
            classes = self.class_means.ids.new_tensor(points.shape[0])
            scale = unit_scale(points)
            points = points * scale
            errors = errors_of_head(points, scale)
        else:
            if x is None or y is None:
                raise ValueError("UniformityRegularizer: of='means' needs x and y; got None")
            tokens, labels = self._tokens(x, y)
            moments = self.class_means.estimate(tokens, labels)
            present = moments.counts >= self.min_count
            index, classes = present.nonzero()[:, 0], present.sum()
            scale = unit_scale(moments.means)
            moments = moments.scaled(scale)
            points, errors = moments.means, self._errors(moments, tokens)
        accumulation = torch.float64 if points.dtype == torch.float64 else torch.float32
        kind = "cosine" if self.kind == "equiangular" else self.kind
        sums = pair_sums(points, errors, kind, index=index)
        pairs, total, squares = sums[0].detach(), sums[1], sums[2]
        value = total / pairs.clamp(min=1)
        if self.kind == "log_distance_raw":
            value = value + torch.where(pairs > 0, scale.to(value.dtype).log(), 0)
        if self.kind == "riesz":  # the sum is a logarithm already
            value = torch.where(pairs > 0, total - pairs.clamp(min=1).log(), 0)
        if self.kind == "equiangular":
            ideal = 1 / (classes - 1).clamp(min=1).to(total.dtype)
            value = (squares + 2 * ideal * total) / pairs.clamp(min=1) + ideal**2 * (pairs > 0)
        return self._weighted(value.to(accumulation), moments, classes=classes, pairs=pairs)
