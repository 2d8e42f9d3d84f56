"""The checked arguments of one cross-entropy, and each token's share of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import functional as F
from ..errors import DataError
from ..functional.checks import FLOATS, class_labels, given, require
from ..functional.sharded_cross_entropy import sharded_row_sum
from ..shards import VocabularyShard, this_meeting, whole_on_each_rank
from .row_sum import weighted_row_sum

__all__ = ["NAME", "HeadCall"]

NAME = "linear_cross_entropy"
# A label of -100 where another is ignored: out of range of any vocabulary, for the op to reject.
_NO_CLASS = -(2**63)


class HeadCall:
    """Hold the checked arguments of one call, tokens in one row."""

    def __init__(
        self,
        x: Tensor,
        head: Tensor | VocabularyShard,
        target: Tensor,
        bias: Tensor | None,
        weight: Tensor | None,
        ignore_index: int | None,
        vocab_size: int | None,
    ) -> None:
        shard = head if isinstance(head, VocabularyShard) else None
        rows: Tensor = head if shard is None else shard.weight  # type: ignore[assignment]
        if shard is not None:
            x, target = (
                whole_on_each_rank(NAME, "input", x),
                whole_on_each_rank(NAME, "target", target),
            )
            bias = shard.local(NAME, "linear_bias", bias)
        if not isinstance(x, Tensor) or x.ndim < 1:
            raise ValueError(f"{NAME}: input is {given(x)}; expected float [..., D]")
        require(NAME, "linear_weight", rows, ("V", x.shape[-1]), FLOATS, like=x)
        labels = class_labels(NAME, "target", target)
        if labels.shape != x.shape[:-1]:
            raise ValueError(
                f"{NAME}: target is {given(target)} and input is {given(x)}; expected input "
                "[..., D] and target with the same [...]"
            )
        self.classes = head.shape[0] if vocab_size is None else vocab_size
        if not 1 <= self.classes <= head.shape[0]:
            raise ValueError(
                f"{NAME}: vocab_size is {vocab_size} and the head has {head.shape[0]} rows; "
                "expected at least one class, and a row for each"
            )
        if x.shape[-1] < 1:
            raise ValueError(f"{NAME}: input is {given(x)}; expected a width of at least 1")
        if bias is not None:
            require(NAME, "linear_bias", bias, (rows.shape[0],), FLOATS, like=x)
        if weight is not None:
            require(NAME, "weight", weight, (self.classes,), FLOATS, like=x)
        if weight is not None and weight.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{NAME}: weight needs a gradient, and there is none to class weights (nor in "
                "torch); expected weight.detach()"
            )
        self.ignored = -100 if ignore_index is None else ignore_index
        if isinstance(self.ignored, bool) or not isinstance(self.ignored, int):
            raise TypeError(f"{NAME}: ignore_index is {ignore_index!r}; expected an integer")
        x, rows, bias = _autocast(x, x), _autocast(rows, x), _autocast(bias, x)
        self.x, self.rows, self.bias = x.reshape(-1, x.shape[-1]), rows, bias
        self.shard = None if shard is None else replace(shard, weight=rows)
        self.labels = labels.reshape(-1)
        if self.ignored != F.IGNORE_INDEX:
            other = self.labels.masked_fill(self.labels == F.IGNORE_INDEX, _NO_CLASS)
            self.labels = other.masked_fill(self.labels == self.ignored, F.IGNORE_INDEX)
        self.vocab_size, self.shape = vocab_size, target.shape
        self.weight = None if weight is None else weight.detach()

    def valid(self) -> Tensor:
        return self.labels != F.IGNORE_INDEX

    def tokens(
        self, softcap: float, smoothing: float, budget: int, check_finite: bool
    ) -> tuple[Tensor, Tensor]:
        """Return nll and lse [N], in the words of this function where it has to be an error."""
        try:
            return F.linear_nll_lse(
                self.x,
                self.rows if self.shard is None else self.shard,
                self.labels,
                self.bias,
                softcap,
                label_smoothing=smoothing,
                memory_budget=budget,
                vocab_size=self.vocab_size,
                check_finite=check_finite,
            )
        except DataError as error:
            text = str(error).replace(f"{NAME}: y[", f"{NAME}: target[")
            text = text.replace(f"{NAME}: x[", f"{NAME}: input[")
            text = text.replace("or -100 for", f"or {self.ignored} for")
            raise DataError(text.replace(str(_NO_CLASS), "-100")) from None

    def shares(self, dtype: torch.dtype) -> Tensor:
        """Return what each token counts for: its class's weight, or 1; 0 where it is ignored."""
        if self.weight is None:
            return self.valid().to(dtype)
        own = self.weight.to(dtype)[self.labels.clamp(0, self.classes - 1)]
        return torch.where(self.valid(), own, 0)

    def weighted(self, nll: Tensor, lse: Tensor, smoothing: float) -> Tensor:
        r"""Return the weighted, smoothed loss of each token from its own nll and lse.

        .. math:: (1 - s) w_y nll + \frac{s}{V} \sum_j w_j (lse - z_j)

        The sum over classes is linear in z, and so in x: no logit is made for it.
        """
        loss = self.shares(nll.dtype) * nll
        if not smoothing:
            return loss
        weight = self.weight.to(nll.dtype)  # type: ignore[union-attr]
        rows, biases = self._weighted_sums(weight)
        x = torch.where(self.valid()[:, None], self.x, 0).to(nll.dtype)
        smooth = weight.sum() * lse - x @ rows - biases
        smooth = torch.where(self.valid(), smooth, 0)
        return (1 - smoothing) * loss + smoothing / self.classes * smooth

    def _weighted_sums(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums of w_j times the head's rows [D], and times its biases []."""
        shard, bias = self.shard, self.bias
        if shard is not None:
            weight = weight[shard.vocab_start :][shard.own(self.classes)]
        rows = weighted_row_sum(self.rows, weight)
        biases = rows.new_zeros(())
        if bias is not None:
            biases = weight @ bias[: len(weight)].to(weight.dtype)
        if shard is None:
            return rows, biases
        sums = sharded_row_sum(this_meeting(), torch.cat([rows, biases[None]]))
        return sums[:-1], sums[-1]


def _autocast(tensor: Any, like: Tensor) -> Any:
    """Cast as autocast casts what a linear layer is given: all but float64."""
    kind = like.device.type
    if tensor is None or tensor.dtype == torch.float64 or kind == "meta":
        return tensor
    if not torch.is_autocast_enabled(kind):
        return tensor
    return tensor.to(torch.get_autocast_dtype(kind))
