"""What every term shares: its classes, its weight over time, what it last saw."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ..functional.checks import FLOATS, class_labels, reject_tangent, require
from ..shards import is_sharded
from .class_means import ClassMeans, ClassMoments
from .counting import in_transform, require_counted_once
from .known_means import errors_of_means
from .renamed import classes_last
from .schedule import LambdaSchedule

__all__ = ["NoClassesWarning", "Regularizer"]


class NoClassesWarning(UserWarning):
    """Tell that a term did nothing because its classes do not occur."""


class Regularizer(nn.Module):
    """Hold a term's class means, weight and diagnostics.

    Args:
        num_classes: V.
        dim: D, the width of a feature.
        classes: K distinct class ids the term acts on; None for all V.
        means: ``"batch"``, ``"ema"`` or ``"running"``: see :class:`ClassMeans`, also for
            ``half_life``, ``through`` and ``process_group``.
        min_count: Tokens a class needs to take part, at least 1.
        weight: Lambda: a number of at least 0, or a :class:`LambdaSchedule`.
        warn_after: Training calls after which it warns, once, if its classes have hardly occurred;
            this reads one number from the device, once. None: only when :meth:`report` is called.

        check_finite: Raise at a NaN or Inf in the features of valid tokens. False makes the term
            and its gradients NaN, as plain torch would, so that a ``GradScaler`` skips the step;
            class means are left as they were.

    Attributes:
        last: Scalars of the last call, as tensors on the device: ``value`` (the term before its
            weight), ``weight``, ``classes`` and ``tokens`` that took part, and each term's own.
            Empty after a call within a transform of torch.func, whose tensors are dead after it.
    """

    least_classes = 2
    measured_by = ""  # the metric that shows what it does

    @classes_last
    def __init__(
        self,
        num_classes: int,
        dim: int,
        classes: Any = None,
        *,
        means: str = "batch",
        half_life: float = 100.0,
        through: str = "full",
        min_count: float = 1,
        weight: float | LambdaSchedule = 1.0,
        warn_after: int | None = 100,
        process_group: Any = None,
        check_finite: bool = False,
    ) -> None:
        super().__init__()
        if not min_count >= 1:
            raise ValueError(f"{self._name()}: min_count is {min_count}; expected at least 1")
        self.class_means = ClassMeans(
            num_classes,
            dim,
            classes,
            means=means,
            half_life=half_life,
            through=through,
            process_group=process_group,
            check_finite=check_finite,
        )
        self.class_means.called = self._name()
        self.schedule = weight if isinstance(weight, LambdaSchedule) else LambdaSchedule(weight)
        self.min_count, self.warn_after = min_count, warn_after
        self.last: dict[str, Tensor] = {}
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self._until_warning = warn_after

    calls: Tensor

    @classmethod
    def _name(cls) -> str:
        return cls.__name__

    def reset(self) -> None:
        """Forget the running class means, as at the start of an epoch."""
        self.class_means.reset()

    def report(self) -> dict[str, int]:
        """Return how many of the term's classes and tokens occurred in training; reads the device.

        >>> from ncfast.losses import WithinClassRegularizer
        >>> term = WithinClassRegularizer(5, 1, [2, 3])
        >>> _ = term(torch.ones(2, 1), torch.tensor([2, 4]))
        >>> term.report()
        {'classes': 2, 'occurred': 1, 'tokens': 1, 'calls': 1}
        """
        seen = self.class_means.seen
        occurred, tokens, calls = torch.stack(
            [(seen > 0).sum(), seen.sum(), self.calls.to(seen.device)]
        ).tolist()
        return {"classes": seen.numel(), "occurred": occurred, "tokens": tokens, "calls": calls}

    def warn_if_idle(self) -> bool:
        """Warn, and return True, if too few of the term's classes occurred to do anything."""
        found = self.report()
        idle = found["occurred"] < self.least_classes
        if idle:
            warnings.warn(
                f"{self._name()} has done nothing in {found['calls']} calls: {found['occurred']} "
                f"of its {found['classes']} classes occurred, in {found['tokens']} tokens; "
                f"it needs {self.least_classes}",
                NoClassesWarning,
                stacklevel=3,
            )
        return idle

    def _require_counted_once(self) -> None:
        if self.training:
            running = self.class_means.kind != "batch" or not self.schedule.constant
            require_counted_once(self._name(), self, running)

    def _tokens(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [N, D] and labels [N] of a batch of any shape."""
        y = class_labels(self._name(), "y", y)
        if not isinstance(x, Tensor):
            raise TypeError(f"{self._name()}: x is a {type(x).__name__}; expected a tensor")
        reject_tangent(self._name(), "x", x)
        self._require_counted_once()
        if x.shape[:-1] != y.shape or x.shape[-1] != self.class_means.dim:
            raise ValueError(
                f"{self._name()}: x is {tuple(x.shape)} and y is {tuple(y.shape)}; "
                f"expected [..., {self.class_means.dim}] and the same [...]"
            )
        return x.reshape(-1, x.shape[-1]), y.reshape(-1)

    def _head(self, head_weight: Tensor, like: Tensor | None = None) -> Tensor:
        """Return the head's rows of the term's classes, on the device that another tensor is on."""
        expected = (self.class_means.num_classes, self.class_means.dim)
        if is_sharded(head_weight):
            raise ValueError(
                f"{self._name()}: head_weight is a sharded {type(head_weight).__name__}; expected "
                "a whole tensor: gather it first (head_weight.full_tensor())"
            )
        require(self._name(), "head_weight", head_weight, expected, FLOATS, like=like)
        self._require_counted_once()
        if self.class_means.every_class:
            return head_weight
        return head_weight.index_select(0, self.class_means.ids)

    def _errors(self, moments: ClassMoments, x: Tensor) -> Tensor:
        """Return [K] float64, the squared errors of class means that features ``x`` are part of."""
        return errors_of_means(self.class_means, moments, x.dtype, self.calls)

    def _weighted(
        self, value: Tensor, moments: ClassMoments | None = None, **found: Tensor
    ) -> Tensor:
        """Return the value times its weight, note what was found, count the batch and the call.

        The last step of a term: nothing is rejected after it, and what was rejected is not counted.
        """
        if moments is not None and moments.finite is not None:
            value = value * torch.ones_like(value).masked_fill(~moments.finite, torch.nan)
        weight = self.schedule.at(self.calls).to(value.dtype)
        last = {"value": value, "weight": weight, **found}
        self.last = {name: tensor.detach() for name, tensor in last.items()}
        if not torch.compiler.is_compiling() and in_transform():
            self.last = {}
        if self.training:
            self.calls = self.calls + 1
            if moments is not None:
                self.class_means.keep(moments)
            if self._until_warning is not None and not torch.compiler.is_compiling():
                self._until_warning -= 1
                if self._until_warning <= 0:
                    self._until_warning = None
                    self.warn_if_idle()
        return value * weight


def unit_scale(rows: Tensor) -> Tensor:
    """Return the power of two that brings the largest value of rows near 1, without a gradient.

    What depends on no scale is computed at this one, where squares neither overflow nor vanish.
    """
    largest = rows.detach().abs().amax() if rows.numel() else rows.new_ones(())
    least = -15 if rows.dtype == torch.float16 else -100  # 2^16 is more than float16 holds
    exponent = torch.frexp(torch.where(largest > 0, largest, 1)).exponent.clamp(least, 100)
    return torch.ldexp(rows.new_ones(()), -exponent)


def masked_mean(values: Tensor, present: Tensor) -> Tensor:
    """Return the mean over the entries (rows) that take part; 0 if none does."""
    shape = (-1,) + (1,) * (values.ndim - 1)
    total = torch.where(present.reshape(shape), values, 0).sum(0)
    return total / present.sum().clamp(min=1)


def center_of(moments: ClassMoments, present: Tensor, center: str) -> Tensor:
    """Return the [D] vector that means are measured from: see ``neural_collapse``."""
    if center == "none":
        return moments.means.new_zeros(moments.means.shape[1])
    if center == "tokens":
        share = torch.where(present, moments.counts, 0)
        share = share / share.sum().clamp(min=1)
        return (share[:, None] * moments.means).sum(0)
    return masked_mean(moments.means, present)
