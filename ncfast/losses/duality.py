"""(U)NC3: the spread of cosines between head rows and class means, and how far they are from 1."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from ..functional.checks import INTEGERS
from ..presets import preset as conventions
from ..shards import VocabularyShard, digest_of, sharded_head, whole_on_each_rank
from .class_means import ClassMoments
from .known_means import without_direction
from .nan_gradient import with_nan_gradient
from .regularizer import Regularizer, center_of, masked_mean, unit_scale
from .renamed import classes_last
from .term_rows import NAME, ShardedTermRows, TermRows, given_bias

__all__ = ["SPREADS", "DualityRegularizer", "PairWeights"]

SPREADS = ("std", "var", "cov", "none")
GRADS = ("both", "head", "features")
CENTERS = ("classes", "tokens", "none")
_LEAST_MEAN = 0.01  # |mean cosine| that a coefficient of variation is measured by, at least


@dataclass(frozen=True)
class PairWeights:
    """Weigh what may differ within a pair of words: mean square difference over the pairs.

    Args:
        cosine: Of cosines with their class means; pairs of which both classes take part.
        norm: Of the norms of their head rows.
        bias: Of their head biases.
    """

    cosine: float = 1.0
    norm: float = 0.0
    bias: float = 0.0

    def __post_init__(self) -> None:
        if min(astuple(self)) < 0:
            raise ValueError(f"PairWeights: {self}; expected weights of 0 or more")


class DualityRegularizer(Regularizer):
    r"""Penalise unequal, and optionally imperfect, alignment of head rows with class means.

    .. math:: s_c = \cos(w_c, \mu_c - \bar\mu), \quad
              L = \lambda \left( \mathrm{spread}_c(s_c) + a (1 - \bar s) + \text{pairs} \right)

    The spread alone is blind to a constant misalignment: with every cosine at 0.1 it is 0. Add the
    alignment weight a where collapse is the goal.

    Args:
        num_classes: V.
        dim: D.
        classes: K distinct class ids (a word set); None for all V.
        spread: ``"std"`` and ``"var"`` (Bessel-corrected), ``"cov"`` (population std over the
            absolute mean, which is taken as at least 0.01), or ``"none"``.
        alignment_weight: a, at least 0.
        grad: ``"both"``, ``"head"`` (features are detached) or ``"features"`` (the head is).
        center: of which the class means: ``"classes"``, ``"tokens"`` or ``"none"``, as in
            :func:`ncfast.neural_collapse`.
        pairs: [P, 2] class ids of counterparts (he, she), each in ``classes``.
        pair_weights: What of a pair may not differ.
        preset: ``"official"`` computes the term of the paper's code: std, gradient to the head
            alone, a running sum since the start. Its other choices are the caller's to make and are
            named in ``conventions``: labels of the next token (:func:`next_token_labels`), the
            encoder's output as features, the first sub-word of each word. Where its standard
            deviation is NaN (fewer than two classes), this is 0.
        means, half_life, through, min_count, weight, warn_after, process_group, check_finite: See
            :class:`Regularizer`.

    Call it with features [..., D], labels [...] (-100: ignored), head_weight [V, D] and, for
    pairs, head_bias [V]. It returns a scalar, never NaN: fewer than two classes have no spread; a
    zero spread and a zero vector have gradient 0, and a class mean that equals the center up to
    rounding (:mod:`ncfast.rounding`) is a zero vector. With means of the batch and weight 1 it is
    exactly what ``neural_collapse`` reports of the same features (``unc3_std``, ``unc3_var``).

    A head on several ranks is a DTensor with ``Shard(0)`` or a :class:`ncfast.VocabularyShard`, its
    bias a DTensor or [V_r]. Every rank then has the term of all their tokens, tokens that several
    ranks bring counted once, and has to add it to its loss. Class means must be the same on all of
    them: ``process_group`` holds them all, or those outside it bring the same tokens.

    ``last`` holds ``value``, ``weight``, ``classes``, ``tokens``, ``mean_cosine``, ``spread``, and
    with pairs ``pair_gap``.

    Source: Collapsed Language Models Promote Fairness (arXiv 2410.04472).

    >>> term = DualityRegularizer(num_classes=3, dim=2)
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    >>> term(x, torch.arange(3), x).item() < 1e-6  # rows along their own means
    True
    """

    measured_by = "unc3_std"

    @classes_last
    def __init__(
        self,
        num_classes: int,
        dim: int,
        classes: Any = None,
        *,
        spread: str = "std",
        alignment_weight: float = 0.0,
        grad: str = "both",
        center: str = "classes",
        pairs: Any = None,
        pair_weights: PairWeights | None = None,
        preset: str = "ncfast",
        **settings: Any,
    ) -> None:
        self.conventions = conventions(preset)
        if preset == "official":
            settings = {"means": "running", **settings}
            grad = "head"
        super().__init__(num_classes, dim, classes, **settings)
        for name, value, choices in (
            ("spread", spread, SPREADS),
            ("grad", grad, GRADS),
            ("center", center, CENTERS),
        ):
            if value not in choices:
                raise ValueError(
                    f"DualityRegularizer: {name} is {value!r}; expected one of {choices}"
                )
        if not alignment_weight >= 0:
            raise ValueError(
                f"DualityRegularizer: alignment_weight is {alignment_weight}; expected 0 or more"
            )
        if spread != "none" and not alignment_weight and self.class_means.ids.numel() < 2:
            raise ValueError(
                "DualityRegularizer: classes holds 1 class, whose cosine differs from no other's; "
                "expected at least 2, or an alignment_weight"
            )
        self.spread, self.alignment_weight = spread, alignment_weight
        self.grad, self.center = grad, center
        self.pair_weights = (pair_weights or PairWeights()) if pairs is not None else None
        self.register_buffer("pairs", self._pair_slots(pairs), persistent=False)

    pairs: Tensor

    def _pair_slots(self, pairs: Any) -> Tensor:
        if pairs is None:
            return torch.zeros(0, 2, dtype=torch.int64)
        ids = torch.as_tensor(pairs).cpu()
        if ids.dtype not in INTEGERS:
            raise TypeError(f"DualityRegularizer: pairs is {ids.dtype}; expected integer class ids")
        ids = ids.to(torch.int64)
        if ids.ndim != 2 or ids.shape[1] != 2 or not len(ids):
            raise ValueError(f"DualityRegularizer: pairs is {tuple(ids.shape)}; expected [P, 2]")
        inside = (ids >= 0) & (ids < self.class_means.num_classes)
        slots = self.class_means.slots[ids.clamp(0, self.class_means.num_classes - 1)]
        missing = ids[~inside | (slots < 0)]
        if missing.numel():
            raise DataError(
                f"DualityRegularizer: pairs names {int(missing[0])}; expected ids of its classes"
            )
        return slots

    @sharded_head("DualityRegularizer", "head_weight")
    def forward(
        self,
        x: Tensor,
        y: Tensor,
        head_weight: Tensor | VocabularyShard,
        head_bias: Tensor | None = None,
    ) -> Tensor:
        """Return the weighted term."""
        rows: TermRows | ShardedTermRows
        if isinstance(head_weight, VocabularyShard):
            x, y = self._tokens(whole_on_each_rank(NAME, "x", x), whole_on_each_rank(NAME, "y", y))
            x = x.detach() if self.grad == "head" else x
            detached = self.grad == "features"
            rows = ShardedTermRows(self.class_means, head_weight, head_bias, detached)
            self.class_means.check(x, y)
            copies = rows.agree(x, y, self._options(head_bias))
            moments = self.class_means.estimate(x, y, copies=copies)
            rows.require_the_same(moments.means)
        else:
            x, y = self._tokens(x, y)
            whole = self._head(head_weight, like=x)
            whole = whole.detach() if self.grad == "features" else whole
            self._require_bias(head_bias)
            rows = TermRows(self.class_means, whole, head_bias)
            moments = self.class_means.estimate(x.detach() if self.grad == "head" else x, y)
        rows.rows = with_nan_gradient(rows.rows, moments.finite)
        present = moments.counts >= self.min_count
        scale = unit_scale(moments.means)
        moments = moments.scaled(scale)
        center = center_of(moments, present, self.center)
        cosines = rows.cosines(moments.means, center)
        cosines = cosines.masked_fill(self._directionless(moments, center, present, x), 0)
        mean = masked_mean(cosines, present)
        spread = self._spread(cosines, mean, present)
        value = spread + self.alignment_weight * torch.where(present.any(), 1 - mean, 0)
        found = {
            "classes": present.sum(),
            "tokens": moments.batch_counts.sum(),
            "mean_cosine": mean,
            "spread": spread,
        }
        if self.pair_weights is not None:
            found["pair_gap"] = self._pair_gap(rows, cosines, present)
            value = value + found["pair_gap"]
        return self._weighted(value, moments, **found)

    def _require_bias(self, head_bias: Tensor | None) -> None:
        if self.pair_weights is not None and self.pair_weights.bias:
            given_bias(head_bias)

    def _options(self, head_bias: Tensor | None) -> dict[str, Any]:
        """Return what has to be the same on every rank; raise where a bias is missing."""
        self._require_bias(head_bias)
        return {
            "spread, center and grad": (self.spread, self.center, self.grad),
            "alignment_weight": self.alignment_weight,
            "min_count": self.min_count,
            "pairs and their weights": (digest_of(self.pairs), self.pair_weights),
        }

    def _directionless(
        self, moments: ClassMoments, center: Tensor, present: Tensor, x: Tensor
    ) -> Tensor:
        """Return [K] bool, which means equal the center up to rounding."""
        errors = self._errors(moments, x)
        weights = None
        if self.center != "none":
            weights = moments.counts if self.center == "tokens" else torch.ones_like(moments.counts)
            weights = torch.where(present, weights, 0)
        return without_direction(moments.means, center, errors, weights)

    def _spread(self, cosines: Tensor, mean: Tensor, present: Tensor) -> Tensor:
        if self.spread == "none":
            return torch.zeros_like(mean)
        count = present.sum()
        squares = torch.where(present, (cosines - mean).square(), 0).sum()
        population = self.spread == "cov"
        variance = squares / (count if population else count - 1).clamp(min=1)
        if self.spread == "var":
            return variance
        # The root has no derivative at 0: what is 0 is left out of the root, and has gradient 0.
        some = variance > 0
        std = torch.where(some, torch.where(some, variance, 1).sqrt(), 0)
        return std / mean.abs().clamp(min=_LEAST_MEAN) if population else std

    def _pair_gap(
        self, rows: TermRows | ShardedTermRows, cosines: Tensor, present: Tensor
    ) -> Tensor:
        weights, (a, b) = self.pair_weights or PairWeights(), self.pairs.unbind(1)
        both = present[a] & present[b]
        total = weights.cosine * masked_mean((cosines[a] - cosines[b]).square(), both)
        if weights.norm:
            norms = rows.norms(cosines.dtype)
            total = total + weights.norm * (norms[a] - norms[b]).square().mean()
        if weights.bias:
            bias = rows.biases(cosines.dtype)
            total = total + weights.bias * (bias[a] - bias[b]).square().mean()
        return total
