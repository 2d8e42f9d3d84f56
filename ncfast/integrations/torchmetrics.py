"""Neural collapse as a torchmetrics metric."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ..metrics import neural_collapse
from ..statistics import ClassStatistics

SHOWN = ("nc1_quotient", "norm_cov", "nc3_mean", "unc3_std")


class NeuralCollapse(Metric):
    """Accumulate class statistics of features and report neural collapse.

    Works in a MetricCollection, with Lightning's logging and over ranks: ranks' statistics are
    merged exactly, so that two processes give what one gives.

    Args:
        num_classes: V.
        dim: D.
        classes: class ids to keep; None keeps all.
        keys: which values of ``neural_collapse`` to return; None for all.
        settings: keyword arguments of ``torchmetrics.Metric``.

    Call ``update(features [N, D], labels [N])``; head rows [V, D] are given once to
    :meth:`set_head` (live parameters are read when computing).

    Example:
        >>> metric = NeuralCollapse(num_classes=2, dim=1, keys=["trace_within"])
        >>> metric.update(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]))
        >>> metric.compute()["trace_within"]
        tensor(0.6667, dtype=torch.float64)
    """

    full_state_update = False
    is_differentiable = False
    counts: Any
    means: Any
    m2: Any

    def __init__(
        self,
        num_classes: int,
        dim: int,
        classes: Any = None,
        keys: Iterable[str] | None = SHOWN,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self._shape = (num_classes, dim, classes)
        self._keys = None if keys is None else tuple(keys)
        self._head: Any = None
        fresh = self._statistics()
        # Gathered, not summed: Chan's merge of the ranks' means is exact.
        for name in ("counts", "means", "m2"):
            self.add_state(name, default=getattr(fresh, name).clone(), dist_reduce_fx=None)

    def _statistics(self) -> ClassStatistics:
        return ClassStatistics(*self._shape, scatter=False, device=self.device)

    def set_head(self, weight: Any) -> NeuralCollapse:
        """Name the head rows that means are compared with.

        Args:
            weight: [V, D], or a function that returns them.

        Returns:
            The metric itself.

        Example:
            >>> metric = NeuralCollapse(2, 2).set_head(torch.eye(2))
        """
        self._head = weight
        return self

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            features: [..., D].
            labels: [...] int64, -100 to ignore.

        Example:
            >>> NeuralCollapse(2, 1).update(torch.ones(1, 1), torch.tensor([0]))
        """
        stats = self._loaded(self.counts, self.means, self.m2)
        stats.update(features.detach().reshape(-1, features.shape[-1]), labels.reshape(-1))
        self.counts, self.means, self.m2 = stats.counts, stats.means, stats.m2

    def _loaded(self, counts: Any, means: Any, m2: Any) -> ClassStatistics:
        stats = self._statistics()
        for name, value in (("counts", counts), ("means", means), ("m2", m2)):
            getattr(stats, name).copy_(value)
        return stats

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics of everything so far, over all ranks.

        Returns:
            Scalars in float64 by key; NaN where undefined.

        Example:
            >>> sorted(NeuralCollapse(2, 1, keys=["tokens"]).compute())
            ['tokens']
        """
        counts = self.counts
        # After a sync there is one state per rank, stacked.
        if isinstance(counts, Tensor) and counts.ndim == 1:
            stats = self._loaded(counts, self.means, self.m2)
        else:
            states = zip(counts, self.means, self.m2, strict=True)
            stats, *others = (self._loaded(*state) for state in states)
            for other in others:
                stats.merge(other)
        if int((stats.counts > 0).sum()) == 0:
            found: dict[str, float] = {}
        else:
            head = self._head() if callable(self._head) else self._head
            found = neural_collapse(stats, head_weight=head).to_dict()
        keys = tuple(found) if self._keys is None else self._keys
        nan = float("nan")
        return {key: torch.tensor(found.get(key, nan), dtype=torch.float64) for key in keys}
