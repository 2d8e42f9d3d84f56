"""NC4: whether the nearest class mean and the head choose the same class."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from . import functional as F
from .arrays import as_ids, as_labels, as_tensor
from .errors import DataError
from .shards import is_sharded
from .statistics import ClassStatistics

__all__ = ["NearestCenterAgreement"]

_TOKENS = (
    2048  # tokens at a time: 6 MiB of float32 at D = 768, which both decisions read from cache
)


class NearestCenterAgreement:
    r"""Count the tokens for which the nearest class mean and the head choose the same class.

    .. math:: \arg\min_c \|x - \mu_c\| = \arg\max_c \; \langle x, w_c \rangle + b_c

    Both choose among the classes that occurred in ``stats``; ties go to the lowest id. This is a
    second pass over the data, or better a pass over held-out data. Counts are kept per true class,
    so that one pass serves every word set.

    Args:
        stats: the class means to choose among; they must not change before the pass is over.
        head_weight: [V, D] float, the head's rows.
        head_bias: [V] float; None leaves the bias out.

    Attributes:
        hits: [V] int64, tokens of each class for which the two agree.
        totals: [V] int64, tokens seen of each class, also of classes that ``stats`` never saw.

    Raises:
        ValueError: The head does not fit the statistics.
        ncfast.DataError: No class occurred in ``stats``.

    Source: NC4; Papyan, Han and Donoho (2020), Linguistic Collapse (arXiv 2405.17767), on
    held-out data.

    >>> stats = ClassStatistics(2, 1)
    >>> stats.update(torch.tensor([[-1.0], [2.0]]), torch.tensor([0, 1]))
    >>> agreement = NearestCenterAgreement(stats, torch.tensor([[-1.0], [1.0]]))
    >>> agreement.update(torch.tensor([[-3.0], [0.25], [5.0]]), torch.tensor([0, 1, 1]))
    >>> agreement.compute(), agreement.compute([1])  # 0.25 is nearer to -1 than to 2
    (0.6666666666666666, 0.5)
    """

    def __init__(
        self, stats: ClassStatistics, head_weight: Tensor, head_bias: Tensor | None = None
    ) -> None:
        op = "NearestCenterAgreement"
        if is_sharded(head_weight):
            raise TypeError(
                f"{op}: head_weight is a {type(head_weight).__name__} sharded over ranks; expected "
                "a whole tensor: gather it (full_tensor)"
            )
        head_weight = as_tensor(op, "head_weight", head_weight)
        if head_bias is not None:
            head_bias = as_tensor(op, "head_bias", head_bias)
        shapes: list[tuple[str, Tensor, tuple[int, ...]]] = [
            ("head_weight", head_weight, (stats.num_classes, stats.dim))
        ]
        if head_bias is not None:
            shapes.append(("head_bias", head_bias, (stats.num_classes,)))
        for name, tensor, shape in shapes:
            if tuple(tensor.shape) != shape or tensor.device != stats.device:
                raise ValueError(
                    f"NearestCenterAgreement: {name} is {tuple(tensor.shape)} on {tensor.device}; "
                    f"expected {shape} on {stats.device}"
                )
        self._slots = (stats.counts > 0).nonzero()[:, 0]
        if not self._slots.numel():
            raise DataError("NearestCenterAgreement: no class occurred in stats; update it first")
        self._stats, self._tokens = stats, stats.tokens
        self._head_weight = head_weight.detach()
        self._head_bias = None if head_bias is None else head_bias.detach()
        self._ids = stats.class_ids
        self._chosen_among = self._ids[self._slots]
        self.reset()

    @property
    def hits(self) -> Tensor:
        """[V] int64, tokens of each class for which the two agree."""
        return self._tally[0]

    @property
    def totals(self) -> Tensor:
        """[V] int64, tokens seen of each class."""
        return self._tally[1]

    def reset(self) -> None:
        """Forget every token seen."""
        shape = (2, self._stats.num_classes)
        self._tally = torch.zeros(shape, dtype=torch.int64, device=self._stats.device)

    def update(self, x: Tensor, y: Tensor) -> None:
        """Count one batch; a batch that is rejected changes nothing.

        Args:
            x: [..., D] float features.
            y: [...] int64, each token's true class in ``[0, V)``, or -100 to leave the token out.

        Raises:
            ValueError, TypeError: A shape or dtype is wrong.
            ncfast.DataError: A label is out of range, a feature of a token that counts is NaN or
                Inf, or ``stats`` has changed since.
        """
        x, y = self._checked(x, y)
        classes = self._stats.num_classes
        kept = (y != F.IGNORE_INDEX).nonzero()[:, 0]
        added = torch.zeros_like(self._tally)
        for part in kept.split(_TOKENS):
            agree, labels = self._agree(x[part]), y[part]
            added[0] += torch.bincount(labels[agree], minlength=classes)
            added[1] += torch.bincount(labels, minlength=classes)
        self._tally = self._tally + added  # in place, a batch in inference mode would be the last

    def _checked(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return flat features and labels, or raise."""
        op, width, classes = (
            "NearestCenterAgreement.update",
            self._stats.dim,
            self._stats.num_classes,
        )
        x, y = as_tensor(op, "x", x), as_labels(op, y)
        if x.shape[-1:] != (width,) or x.shape[:-1] != y.shape:
            raise ValueError(
                f"{op}: x is {tuple(x.shape)} and y is {tuple(y.shape)}; "
                f"expected [..., {width}] and the same leading sizes"
            )
        if self._stats.tokens != self._tokens:
            raise DataError(
                f"{op}: stats held {self._tokens} tokens when the pass began and holds "
                f"{self._stats.tokens} now; expected the same class means throughout"
            )
        y = y.reshape(-1)
        bad = ((y != F.IGNORE_INDEX) & ((y < 0) | (y >= classes))).nonzero()
        if bad.numel():
            i = int(bad[0])
            raise DataError(
                f"{op}: y[{i}] is {int(y[i])}; expected a class in [0, {classes}) or "
                f"{F.IGNORE_INDEX} for a token to ignore"
            )
        return x.detach().reshape(-1, width), y

    def _agree(self, x: Tensor) -> Tensor:
        if not x.shape[0]:
            return x.new_zeros(0, dtype=torch.bool)
        nearest, _ = F.nearest_center(x, self._stats.means, self._slots)
        highest, _ = F.linear_argmax(x, self._head_weight, self._head_bias, self._chosen_among)
        return self._ids[nearest] == highest

    def compute(self, classes: Any = None) -> float:
        """Return the share of tokens for which the two agree.

        Args:
            classes: ids of the true classes to count; None counts every token.

        Returns:
            hits / totals; NaN when no such token was seen.

        Raises:
            ncfast.DataError: A class id is out of range.
        """
        tally = self._tally
        if classes is not None:
            ids = as_ids(
                "NearestCenterAgreement.compute", "classes", classes, tally.device
            ).unique()
            outside = ids[(ids < 0) | (ids >= tally.shape[1])]
            if outside.numel():
                raise DataError(
                    f"NearestCenterAgreement.compute: classes holds {int(outside[0])}; "
                    f"expected ids in [0, {tally.shape[1]})"
                )
            tally = tally[:, ids]
        hits, total = tally.sum(1).tolist()
        return hits / total if total else math.nan

    def merge(self, other: NearestCenterAgreement) -> None:
        """Add what another pass with the same means and head has counted.

        Args:
            other: it is left as it is.

        Raises:
            ncfast.DataError: The two choose among different classes or from other token counts.
        """
        mine, theirs = self._chosen_among, other._chosen_among
        if self._tokens != other._tokens or not torch.equal(mine, theirs):
            raise DataError(
                f"NearestCenterAgreement.merge: the other chooses among {theirs.numel()} classes "
                f"of {other._tokens} tokens; expected {mine.numel()} of {self._tokens}"
            )
        self._tally = self._tally + other._tally

    def all_reduce(self, group: Any = None) -> None:
        """Replace the counts of every rank by their sum, with one all_reduce.

        Args:
            group: a torch.distributed process group; None is the default group.
        """
        from torch import distributed

        tally = self._tally.clone()  # a peer that dies must not leave half a sum here
        distributed.all_reduce(tally, group=group)
        self._tally = tally
