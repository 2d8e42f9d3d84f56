"""Neural collapse as a torchmetrics metric."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from ..catalogue import HIGHER, LOWER, METRICS
from ..metrics import neural_collapse
from ..statistics import ClassStatistics
from .head_reference import HeadReference
from .metric_keys import OF_HEAD, SHOWN, checked_keys

__all__ = ["NeuralCollapse"]


class NeuralCollapse(Metric):
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
    squares and int64 counts; ``set_dtype(torch.float64)`` makes the means float64.

    Raises:
        ValueError: A key is unknown, or needs what this metric does not keep.

    >>> metric = NeuralCollapse(num_classes=2, dim=1, keys=["trace_within"])
    >>> metric.update(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]))
    >>> metric.compute()["trace_within"]
    tensor(0.6667, dtype=torch.float64)
    """

    full_state_update = False
    is_differentiable = False
    # torch.jit.script scripts nothing of a metric, but reads what a class says of its attributes.
    __jit_unused_properties__: ClassVar = [*Metric.__jit_unused_properties__, "keys_shown"]
    if TYPE_CHECKING:
        counts: Any
        means: Any
        m2: Any
        tally: Any
        identity: Tensor

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
        super().__init__(**settings)
        self._scalar = isinstance(keys, str)
        self._keys = checked_keys([keys] if isinstance(keys, str) else keys, scatter)
        self._explicit = keys is not SHOWN and keys is not None
        self._head: HeadReference | None = None
        fresh = ClassStatistics(num_classes, dim, classes, scatter=scatter)
        for name, tensor in _tensors(fresh).items():
            # Gathered, not summed: Chan's merge of the ranks' means is exact.
            self.add_state(name, default=tensor, dist_reduce_fx=None)
        # A MetricCollection takes metrics with equal states for one: those of other classes differ.
        text = repr((num_classes, dim, fresh.class_ids.tolist(), scatter))
        bits = [zlib.crc32(text.encode()) >> k & 1 for k in range(32)]
        self.add_state("identity", default=torch.tensor(bits), dist_reduce_fx=None)
        self._template = _emptied(fresh)
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
        state = self._own_state()
        if self.means.is_inference() and not torch.is_inference_mode_enabled():
            state = {name: tensor.clone() for name, tensor in state.items()}
            self._set(state)
        # In place: a batch touches the rows of its classes and no others.
        self._statistics(state).update(features.detach(), labels)

    def _own_state(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self._defaults if name != "identity"}

    def _set(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in state.items():
            setattr(self, name, tensor)

    def _statistics(self, state: Mapping[str, Tensor]) -> ClassStatistics:
        """Return statistics whose state these tensors are, uncopied."""
        device, dtype = state["counts"].device, state["means"].dtype
        if self._template.device != device or self._template.dtype != dtype:
            classes, scatter = self._template.classes, bool(self._template.scatter_ids)
            shape = (self._template.num_classes, self._template.dim)
            made = ClassStatistics(*shape, classes, scatter=scatter, dtype=dtype, device=device)
            self._template = _emptied(made)
        stats = copy.copy(self._template)
        stats.counts, stats.means, stats.m2 = state["counts"], state["means"], state["m2"]
        stats._tally = state["tally"]
        stats.scatter = {name: state["scatter"] for name in stats.scatter_ids}
        return stats

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        """Merge a state into this one: torchmetrics' hook of forward, merge_state and Running."""
        missing = [name for name in self._defaults if name not in incoming_state]
        if missing:
            raise ValueError(f"NeuralCollapse: the incoming state has no {missing[0]}")
        if not torch.equal(incoming_state["identity"].to(self.device), self.identity):
            raise ValueError(
                "NeuralCollapse: the incoming state is of another num_classes, dim, classes or "
                "scatter; expected this metric's"
            )
        state = {name: t.clone() for name, t in self._own_state().items()}
        other = {
            name: incoming_state[name].to(device=t.device, dtype=t.dtype)
            for name, t in state.items()
        }
        self._statistics(state).merge(self._statistics(other))
        self._set(state)
        self._computed = None

    def compute(self) -> Any:
        """Return the metrics of everything so far, over all ranks.

        Returns:
            Scalars in float64 by key (or one); NaN where undefined.

        Raises:
            ValueError: A key that was asked for needs head rows, and there are none.

        >>> sorted(NeuralCollapse(2, 1, keys=["tokens"]).compute())
        ['tokens']
        """
        keys, state, found = self.keys_shown, self._own_state(), {}
        if self.counts.ndim == 1:
            stats = self._statistics(state)
        else:  # after a sync there is one state per rank, stacked
            ranks = [{k: t[rank] for k, t in state.items()} for rank in range(len(self.counts))]
            stats = self._statistics({name: t.clone() for name, t in ranks[0].items()})
            for other in ranks[1:]:
                stats.merge(self._statistics(other))
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


def _tensors(stats: ClassStatistics) -> dict[str, Tensor]:
    state = {"counts": stats.counts, "means": stats.means, "m2": stats.m2, "tally": stats._tally}
    return state | dict(zip(("scatter",), stats.scatter.values(), strict=False))


def _emptied(stats: ClassStatistics) -> ClassStatistics:
    """Return what makes statistics up but their state, to be put around other tensors."""
    stats.counts = stats.means = stats.m2 = stats._tally = torch.zeros(0)
    stats.scatter = {}
    return stats
