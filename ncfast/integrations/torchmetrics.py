"""Neural collapse as a torchmetrics metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from ..catalogue import HIGHER, LOWER, METRICS
from ..metrics import neural_collapse
from .head_reference import HeadReference
from .metric_keys import OF_HEAD, SHOWN, checked_keys
from .statistics_metric import StatisticsMetric

__all__ = ["NeuralCollapse"]


class NeuralCollapse(StatisticsMetric):
    """Accumulate class statistics of features and report neural collapse.

    Works in a MetricCollection, in ``Running``, with Lightning's logging and over ranks: ranks'
    statistics are merged exactly, so that two processes give what one gives.

    Args:
        num_classes: V.
        dim: D.
        classes: class ids to keep; None keeps all.
        keys: which values of ``neural_collapse`` to return: several, or one by name, which is then
            returned as a tensor and not in a dict, as Lightning's ``self.log`` expects it; None for
            all that there are. A key that needs a scatter or head rows must be given them.
        scatter: keep the pooled scatter [D, D] that nc1_pinv and nc1_svd need.
        head: see :meth:`set_head`.
        settings: keyword arguments of ``torchmetrics.Metric``.

    Call ``update(features [..., D], labels [...])``. The states are float32 means, float64 sums of
    squares, int64 counts, and how coarse the features were (``roundoff``), without which rounding
    cannot be told from what was measured; ``set_dtype(torch.float64)`` makes the means float64, and
    no dtype of a module around the metric changes it. A batch that is rejected changes nothing,
    also where the metric is called, and ``load_state_dict`` and ``merge_state`` reject a state of
    other classes, num_classes, dim or scatter whole.

    Raises:
        ValueError: A key is unknown, or needs what this metric does not keep.

    >>> metric = NeuralCollapse(num_classes=2, dim=1, keys=["trace_within"])
    >>> metric.update(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]))
    >>> metric.compute()["trace_within"]
    tensor(0.6667, dtype=torch.float64)
    """

    # torch.jit.script scripts nothing of a metric, but reads what a class says of its attributes.
    __jit_unused_properties__: ClassVar = [*Metric.__jit_unused_properties__, "keys_shown"]

    def __init__(
        self,
        num_classes: int,
        dim: int,
        classes: Any = None,
        keys: str | Iterable[str] | None = SHOWN,
        *,
        scatter: bool = False,
        head: Tensor | Callable[[], Tensor] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(num_classes, dim, classes, scatter=scatter, **settings)
        self._scalar = isinstance(keys, str)
        self._keys = checked_keys([keys] if isinstance(keys, str) else keys, scatter)
        self._explicit = keys is not SHOWN and keys is not None
        self._head: HeadReference | None = None
        if head is not None:
            self.set_head(head)

    def set_head(self, weight: Tensor | Callable[[], Tensor]) -> NeuralCollapse:
        """Name the head rows that means are compared with; they are read whenever it computes.

        They are referred to: no ``state_dict`` carries them, and a clone reads the same ones.

        Args:
            weight: [V, D], or a function that returns them.

        Returns:
            The metric itself.

        Raises:
            TypeError: It is neither.

        >>> metric = NeuralCollapse(2, 2).set_head(torch.eye(2))
        """
        if not isinstance(weight, Tensor) and not callable(weight):
            raise TypeError(
                f"NeuralCollapse: head is a {type(weight).__name__}; expected a tensor or a "
                "function that returns one"
            )
        self._head = HeadReference(weight)
        self._computed = None
        return self

    @property
    def keys_shown(self) -> tuple[str, ...]:
        """The keys that :meth:`compute` returns."""
        if self._head is not None:
            return self._keys
        missing = [key for key in self._keys if key in OF_HEAD]
        if missing and self._explicit:
            raise ValueError(
                f"NeuralCollapse: {missing[0]} needs the head's rows; expected set_head(weight) "
                "before compute()"
            )
        return tuple(key for key in self._keys if key not in OF_HEAD)

    @property
    def higher_is_better(self) -> Any:  # type: ignore[override]
        """Whether higher is more collapsed: by key, or of the one key; None: neither way is."""
        ways = {LOWER: False, HIGHER: True}
        found = {k: ways.get(METRICS[k].direction) if k in METRICS else None for k in self._keys}
        return found[self._keys[0]] if self._scalar else found

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            features: [..., D].
            labels: [...] integers, -100 to ignore.

        Raises:
            TypeError: features are float64 and the means are not (:meth:`set_dtype`).

        >>> NeuralCollapse(2, 1).update(torch.ones(1, 1), torch.tensor([0]))
        """
        if features.dtype == torch.float64 != self.means.dtype:
            raise TypeError(
                "NeuralCollapse: features are float64 and means are kept in float32; expected "
                "set_dtype(torch.float64) before the first update"
            )
        self._add(features.detach(), labels)

    def compute(self) -> Any:
        """Return the metrics of everything so far, over all ranks.

        Returns:
            Scalars in float64 by key (or one); NaN where undefined.

        Raises:
            ValueError: A key that was asked for needs head rows, and there are none.

        >>> sorted(NeuralCollapse(2, 1, keys=["tokens"]).compute())
        ['tokens']
        """
        keys, stats, found = self.keys_shown, self._over_ranks(), {}
        if int((stats.counts > 0).sum()):
            head = None if self._head is None else self._head.tensor().to(self.device)
            found = neural_collapse(stats, head_weight=head).to_dict()
        nan = float("nan")
        values = {
            key: torch.tensor(found.get(key, nan), dtype=torch.float64, device=self.device)
            for key in keys
        }
        return values[keys[0]] if self._scalar else values

    def set_dtype(self, dst_type: str | torch.dtype) -> NeuralCollapse:
        """Keep means in float64 or float32.

        Args:
            dst_type: ``torch.float64`` or ``torch.float32``.

        Returns:
            The metric itself.

        Raises:
            ValueError: It is another: running sums in 16 bits would be wrong. Features may have
                any float dtype.

        >>> NeuralCollapse(2, 1).set_dtype(torch.float64).means.dtype
        torch.float64
        """
        kinds = {"torch.float64": torch.float64, "torch.float32": torch.float32}
        if str(dst_type) not in kinds:
            raise ValueError(
                f"NeuralCollapse.set_dtype: dst_type is {dst_type}; expected torch.float32 or "
                "torch.float64, as sums are kept in nothing narrower"
            )
        dtype = kinds[str(dst_type)]
        self.means = self.means.to(dtype)
        start: Any = self._defaults["means"]
        self._defaults["means"] = start.to(dtype)
        self._dtype = dtype
        return self

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw one result, or several in order.

        Args:
            val: what :meth:`compute` or ``forward`` returned, or a list of these; None computes.
            ax: matplotlib axes to draw on.

        Returns:
            The figure and the axes.

        >>> metric = NeuralCollapse(2, 1, keys="trace_within")
        >>> metric.update(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]))
        >>> figure, axes = metric.plot()
        """
        from torchmetrics.utilities.plot import plot_single_or_multi_val

        better = self.higher_is_better if self._scalar else None
        name = self._keys[0] if self._scalar else type(self).__name__
        values = self.compute() if val is None else val
        return plot_single_or_multi_val(values, ax=ax, higher_is_better=better, name=name)
