"""Means of the classes a term acts on: of the batch, an exponential average, or a running sum."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

from .. import functional as F
from ..errors import DataError
from ..functional.checks import check_finite, check_labels, class_ids, class_labels, finite_rows
from ..shards import all_reduce
from .counting import require_counted_once
from .nan_gradient import with_nan_gradient
from .renamed import classes_last

__all__ = ["ClassMeans", "ClassMoments"]

MEANS = ("batch", "ema", "running")
THROUGH = ("full", "share")


class ClassMoments(NamedTuple):
    """Hold what a batch says of K classes, over all ranks.

    Attributes:
        counts: [K], tokens the means stand for (fractional in an exponential average).
        means: [K, D], differentiable with respect to the batch's features.
        batch_counts: [K], tokens of this batch.
        within: [K], sum of squared distances of this batch's tokens to ``means``.
        finite: [] bool, whether every feature of a valid token was finite, on every rank; None
            where that was checked before.
        after: what the class means' state is after this batch, for :meth:`ClassMeans.keep`; None
            where nothing is left to keep.
    """

    counts: Tensor
    means: Tensor
    batch_counts: Tensor
    within: Tensor
    finite: Tensor | None = None
    after: dict[str, Tensor] | None = None

    def scaled(self, scale: Tensor) -> ClassMoments:
        """Return the moments of features times ``scale``, a power of two."""
        return self._replace(means=self.means * scale, within=self.within * scale * scale)


class ClassMeans(nn.Module):
    r"""Estimate class means on K compact slots, with gradients to the batch's own features.

    .. math:: n \leftarrow \rho n + n_b, \quad
              \mu \leftarrow \mu + \frac{n_b}{n} (\mu_b - \mu)

    with :math:`\rho = 0` for ``"batch"``, 1 for ``"running"`` and 2^(-1/half_life) for ``"ema"``.

    Args:
        num_classes: V.
        dim: D.
        classes: K distinct class ids; None for all of them.
        means: ``"batch"``, ``"ema"`` or ``"running"`` (since the start, or since :meth:`reset`).
        half_life: Calls after which a batch weighs half, for ``"ema"``.
        through: The gradient to the batch's features: ``"full"`` as if :math:`\mu_b` were the mean
            (straight-through), ``"share"`` the derivative of :math:`\mu`, which dies out with n.
        process_group: Ranks whose sums are added, with gradients; None for all, if any.
        check_finite: Raise at a NaN or Inf in the features of valid tokens. False leaves such
            tokens out of the moments, changes no state, and says so in ``finite``.

    State (``counts`` [K] float64, ``means`` [K, D] float32, ``seen`` [K] int64) is saved with the
    module and changes in training mode only: elsewhere a call's moments are computed and forgotten.
    """

    @classes_last
    def __init__(
        self,
        num_classes: int,
        dim: int,
        classes: Any = None,
        means: str = "batch",
        half_life: float = 100.0,
        through: str = "full",
        process_group: Any = None,
        check_finite: bool = False,
    ) -> None:
        super().__init__()
        if means not in MEANS:
            raise ValueError(f"ClassMeans: means is {means!r}; expected one of {MEANS}")
        if through not in THROUGH:
            raise ValueError(f"ClassMeans: through is {through!r}; expected one of {THROUGH}")
        if not half_life > 0:
            raise ValueError(f"ClassMeans: half_life is {half_life}; expected more than 0 calls")
        for name, size in (("num_classes", num_classes), ("dim", dim)):
            if isinstance(size, bool) or not hasattr(size, "__index__") or size < 1:
                raise ValueError(f"ClassMeans: {name} is {size!r}; expected a whole number above 0")
        ids = _distinct_ids(classes, num_classes)
        self.num_classes, self.dim, self.kind, self.through = num_classes, dim, means, through
        self.decay = {"batch": 0.0, "running": 1.0, "ema": 0.5 ** (1 / half_life)}[means]
        self.process_group, self.check_finite = process_group, check_finite
        table = torch.full((num_classes,), F.IGNORE_INDEX, dtype=torch.int64)
        table[ids] = torch.arange(ids.numel())
        self.every_class = torch.equal(ids.cpu(), torch.arange(num_classes))
        self.register_buffer("ids", ids)
        self.register_buffer("slots", table, persistent=False)
        self.register_buffer("seen", torch.zeros(ids.numel(), dtype=torch.int64))
        kept = 0 if means == "batch" else ids.numel()
        self.register_buffer("counts", torch.zeros(kept, dtype=torch.float64))
        # The default dtype may be a 16-bit model's: Lightning's "bf16-true" sets it meanwhile.
        self.register_buffer("means", torch.zeros(kept, dim, dtype=torch.float32))

    called = "ClassMeans"  # in errors; a term puts its own name here
    ids: Tensor
    slots: Tensor
    seen: Tensor
    counts: Tensor
    means: Tensor

    def _apply(self, fn: Any, recurse: bool = True) -> ClassMeans:
        """Move with the module; what is summed over batches stays wide, also in 16 bits' model."""
        kept = {"counts": self.counts, "means": self.means}
        super()._apply(fn, recurse)
        for name, old in kept.items():
            moved: Tensor = getattr(self, name)
            narrow = moved.dtype != old.dtype and (name == "counts" or moved.element_size() < 4)
            if narrow:
                setattr(self, name, old.to(moved.device))
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        ids = state_dict.get(f"{prefix}ids")
        if ids is not None and not torch.equal(ids.cpu(), self.ids.cpu()):
            errors: list[str] = args[-1]
            errors.append(
                f"{prefix}ids: the state is of {ids.numel()} other classes than this term's "
                f"{self.ids.numel()}; expected a term made with the same classes, in their order"
            )
            return
        rows = state_dict.get(f"{prefix}counts", self.counts).shape[0]
        if rows != self.counts.shape[0]:
            errors = args[-1]
            errors.append(
                f"{prefix}means: the state keeps means of {rows} classes, this term, of "
                f"means={self.kind!r}, of {self.counts.shape[0]}; expected a term whose means are "
                'both "batch", which keeps none, or both "ema" or "running"'
            )
            return
        super()._load_from_state_dict(state_dict, prefix, *args)

    def reset(self) -> None:
        """Forget the running means, as at the start of an epoch; ``seen`` stays."""
        self.counts = torch.zeros_like(self.counts)
        self.means = torch.zeros_like(self.means)

    def forward(
        self, x: Tensor, y: Tensor, scale: Tensor | None = None, copies: int = 1
    ) -> ClassMoments:
        """Return moments of features [N, D] and labels [N], the kept past included.

        With a ``scale``, a power of two, they are moments of ``scale`` times the features; what is
        kept is in the features' own units. ``copies`` ranks of the group bring these tokens, which
        count once.

        Raises:
            ncfast.DataError: A label is neither a class nor -100; or, with ``check_finite``, a
                feature of a valid token is NaN or Inf.
        """
        if self.training:
            require_counted_once(self.called, self, self.kind != "batch")
        moments = self.estimate(x, y, scale, copies)
        self.keep(moments)
        return moments._replace(after=None)

    def keep(self, moments: ClassMoments) -> None:
        """Take over the state after a batch, once nothing of its call can be rejected any more."""
        for name, tensor in (moments.after or {}).items():
            setattr(self, name, tensor)

    def estimate(
        self, x: Tensor, y: Tensor, scale: Tensor | None = None, copies: int = 1
    ) -> ClassMoments:
        """Return what :meth:`forward` does, and change no state: that is for :meth:`keep`."""
        slots, finite = self._slots_of(class_labels(self.called, "y", y)), None
        if not self.check_finite:
            bad = ~finite_rows(x.detach()) & (slots != F.IGNORE_INDEX)
            slots, finite = slots.masked_fill(bad, F.IGNORE_INDEX), ~bad.any()
            x = with_nan_gradient(x, finite)
        x = x if scale is None else x * scale.to(x.dtype)
        counts, means, m2 = self._moments(x, slots)
        weight = counts.to(means.dtype)
        if distributed.is_available() and distributed.is_initialized():
            weight, means, m2, finite = self._over_ranks(weight, means, m2, finite, copies)
        after = None
        if self.training:
            # New tensors, here and below: several calls may come before their backward passes,
            # and compiled ones compute again from what they were given.
            seen = self.seen + weight.detach().to(torch.int64)
            after = {"seen": seen if finite is None else torch.where(finite, seen, self.seen)}
        if self.kind == "batch":
            return ClassMoments(weight, means, weight, m2, finite=finite, after=after)
        own = ClassMoments(weight, means, weight, m2, finite=finite, after=after)
        return self._merge(own, scale)

    def _moments(self, x: Tensor, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        try:
            return F.class_moments(x, slots, self.ids.numel())
        except DataError as error:  # of a class that there is not, in this module's words
            text = str(error).replace("class_moments:", f"{self.called}:")
            raise DataError(
                text.replace(f"[0, {self.ids.numel()})", f"[0, {self.num_classes})")
            ) from None

    def check(self, x: Tensor, y: Tensor) -> None:
        """Raise at what :meth:`forward` rejects, before this rank keeps others waiting."""
        kept = check_labels(self.called, y, self.num_classes)
        if self.check_finite:
            check_finite(self.called, x, kept)

    def _slots_of(self, y: Tensor) -> Tensor:
        if self.every_class:
            return y
        # A label that is no class stays as it is, for class_moments to reject.
        known = (y >= 0) & (y < self.num_classes)
        return torch.where(known, self.slots[y.clamp(0, self.num_classes - 1)], y)

    def _over_ranks(
        self, weight: Tensor, means: Tensor, m2: Tensor, finite: Tensor | None, copies: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        group = self.process_group or distributed.group.WORLD
        sums = torch.cat([means * weight[:, None], weight[:, None]], 1)
        if finite is not None:  # a row more: how many ranks met something else
            bad = (~finite).to(sums.dtype).expand(1, sums.shape[1])
            sums = torch.cat([sums, bad])
        sums = _SumOverRanks.apply(sums, group)
        if finite is not None:
            sums, finite = sums[:-1], sums[-1, 0].detach() == 0
        sums = sums if copies == 1 else sums / copies
        total = sums[:, -1].detach()
        mean = sums[:, :-1] / total.clamp(min=1)[:, None]
        spread = m2 + weight * (means - mean).square().sum(1)
        spread = _SumOverRanks.apply(spread, group)
        return total, mean, spread if copies == 1 else spread / copies, finite

    def _merge(self, own: ClassMoments, scale: Tensor | None) -> ClassMoments:
        """Return a batch's own moments with the past in them."""
        weight, means, finite, after = own.batch_counts, own.means, own.finite, own.after
        old = self.counts * self.decay
        total = old + weight
        share = (weight / torch.where(total > 0, total, 1)).to(means.dtype)[:, None]
        batch = means.detach()
        past = self.means if scale is None else self.means * scale
        merged = past + share * (batch - past)
        if after is not None:
            unscaled = merged if scale is None else merged / scale
            kept = total, unscaled.to(self.means.dtype)
            if finite is not None:  # the step is skipped, and so is this batch
                kept = (
                    torch.where(finite, kept[0], self.counts),
                    torch.where(finite, kept[1], self.means),
                )
            after = {**after, "counts": kept[0], "means": kept[1]}
        derivative = share if self.through == "share" else 1.0
        through = merged + derivative * (means - batch)
        within = own.within + weight * (means - merged).square().sum(1)
        return own._replace(counts=total.to(means.dtype), means=through, within=within, after=after)


class _SumOverRanks(torch.autograd.Function):
    """Add a tensor of each rank up, and so the gradients to the sum."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return all_reduce("ClassMeans", own.contiguous().clone(), (group,), what="class sums")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.contiguous().clone()
        return all_reduce("ClassMeans", grad, (ctx.group,), what="gradients of class sums"), None


def _distinct_ids(classes: Any, num_classes: int) -> Tensor:
    """Return distinct class ids in the order given, or raise."""
    if classes is None:
        return torch.arange(num_classes)
    ids = class_ids("ClassMeans", "classes", classes, num_classes)
    if torch.unique(ids).numel() != ids.numel():
        raise DataError(
            f"ClassMeans: classes names {torch.unique(ids).numel()} ids {ids.numel()} times; "
            "expected each once"
        )
    return ids
