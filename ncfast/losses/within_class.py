"""NC1: how far tokens are from the mean of their class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import functional as F
from .class_means import ClassMoments
from .known_means import pair_sums
from .regularizer import Regularizer, center_of, masked_mean, unit_scale
from .renamed import classes_last

__all__ = ["WithinClassRegularizer"]

KINDS = ("trace", "quotient", "cdnv")


class WithinClassRegularizer(Regularizer):
    r"""Penalise the variability of features within their class.

    .. math:: \text{trace} = \frac1N \sum_i \|x_i - \mu_{y_i}\|^2, \quad
              \text{quotient} = \text{trace} \Big/ \frac1K \sum_c \|\mu_c - \bar\mu\|^2, \quad
              \text{cdnv} = \operatorname{mean}_{c < c'}
              \frac{\sigma_c^2 + \sigma_{c'}^2}{2 \|\mu_c - \mu_{c'}\|^{2p}}

    Args:
        num_classes: V.
        dim: D.
        classes: K distinct class ids; None for all V.
        kind: ``"trace"``, ``"quotient"`` or ``"cdnv"``. The trace alone can be lowered by making
            all features small; the other two cannot.
        power: p of cdnv, 1 or 2.
        means, half_life, through, min_count, weight, warn_after, process_group, check_finite: See
            :class:`Regularizer`. ``min_count`` counts tokens of the batch, as its tokens are what
            has a spread; with running means their distance is to those.

    Call it with features [..., D] and labels [...]. It returns a scalar, never NaN: 0 without
    tokens, quotient and cdnv also where all means are equal; pairs of means that differ by no more
    than their rounding (:mod:`ncfast.rounding`) are left out. With means of the batch and weight 1
    it is what ``neural_collapse`` reports of the same features: ``trace_within``,
    ``nc1_quotient``, ``cdnv_mean``. ``"cdnv"`` must know which classes occurred and whether pairs
    are left out: two reads from the device per call, and graph breaks under torch.compile. Where
    some are, it finds them, and visits all pairs of their means once more, in float64: some reads
    more for every 512 x 512 pairs.

    ``last`` holds ``value``, ``weight``, ``classes``, ``tokens``, and of cdnv ``pairs``.

    Source: NC1 of Papyan, Han and Donoho (2020); cdnv of Galanti, Gyorgy and Hutter (2022).

    >>> term = WithinClassRegularizer(num_classes=2, dim=1)
    >>> term(torch.tensor([[1.0], [3.0], [7.0]]), torch.tensor([0, 0, 1])).item()
    0.6666...
    """

    least_classes = 1
    measured_by = "trace_within"

    @classes_last
    def __init__(
        self,
        num_classes: int,
        dim: int,
        classes: Any = None,
        *,
        kind: str = "trace",
        power: int = 1,
        **settings: Any,
    ) -> None:
        super().__init__(num_classes, dim, classes, **settings)
        if kind not in KINDS:
            raise ValueError(f"WithinClassRegularizer: kind is {kind!r}; expected one of {KINDS}")
        if power not in (1, 2):
            raise ValueError(f"WithinClassRegularizer: power is {power}; expected 1 or 2")
        self.kind, self.power = kind, power
        self.least_classes = 1 if kind == "trace" else 2

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        head_weight: Tensor | None = None,
        head_bias: Tensor | None = None,
    ) -> Tensor:
        """Return the weighted term; the head is not used."""
        x, y = self._tokens(x, y)
        scale = None
        if self.kind != "trace":  # a ratio: squares of small or large features must not reach it
            used = torch.where((y != F.IGNORE_INDEX)[:, None], x.detach(), 0)
            scale = unit_scale(used.nan_to_num(0, 0, 0)).to(torch.float32)
        moments = self.class_means.estimate(x, y, scale)
        present = moments.batch_counts >= self.min_count
        tokens = torch.where(present, moments.batch_counts, 0).sum()
        found = {"classes": present.sum(), "tokens": tokens}
        if self.kind == "cdnv":
            value, found["pairs"] = self._cdnv(moments, x, present)
            if self.power == 2 and scale is not None:
                value = value * scale * scale  # of a squared length
        else:
            value = torch.where(present, moments.within, 0).sum() / tokens.clamp(min=1)
        if self.kind == "quotient":
            center = center_of(moments, present, "classes")
            between = masked_mean((moments.means - center).square().sum(1), present)
            some = between > masked_mean(self._errors(moments, x), present)
            value = torch.where(some, value / torch.where(some, between, 1), 0)
        return self._weighted(value, moments, **found)

    def _cdnv(self, moments: ClassMoments, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        variances, index = moments.within / moments.batch_counts.clamp(min=1), present.nonzero()
        sums = pair_sums(
            moments.means,
            self._errors(moments, x),
            "cdnv",
            power=self.power,
            variances=variances,
            index=index[:, 0],
        )
        pairs = sums[0].detach()
        return (sums[1] / pairs.clamp(min=1)).to(moments.means.dtype), pairs
