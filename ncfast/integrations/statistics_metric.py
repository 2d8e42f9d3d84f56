"""A torchmetrics metric whose states are class statistics: how they merge, load, move and fail."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ..errors import DataError
from ..statistics import ClassStatistics

__all__ = ["StatisticsMetric"]


class StatisticsMetric(Metric):
    """Keep class statistics as the states of a metric.

    Args:
        num_classes: V.
        dim: D.
        classes: class ids to keep; None keeps all.
        scatter: keep the pooled scatter [D, D].
        settings: keyword arguments of ``torchmetrics.Metric``.

    States: what :class:`ncfast.ClassStatistics` keeps, ``feature_roundoff`` of it as ``roundoff``
    [] float64, and ``classes_kept`` [V] int8, 1 for those classes that are kept.

    >>> StatisticsMetric.__abstractmethods__ == {"update", "compute"}
    True
    """

    full_state_update = False
    is_differentiable = False
    if TYPE_CHECKING:
        counts: Any
        means: Any
        m2: Any
        tally: Any
        roundoff: Any
        classes_kept: Any

    def __init__(
        self, num_classes: int, dim: int, classes: Any = None, *, scatter: bool, **settings: Any
    ) -> None:
        super().__init__(**settings)
        fresh = ClassStatistics(num_classes, dim, classes, scatter=scatter)
        # A MetricCollection takes metrics with equal states for one: those of other classes differ.
        kept = torch.zeros(num_classes, dtype=torch.int8)
        kept[fresh.class_ids] = 1
        states = {"counts": fresh.counts, "means": fresh.means, "m2": fresh.m2}
        states |= {"tally": fresh._tally, "roundoff": torch.zeros((), dtype=torch.float64)}
        states |= dict(zip(("scatter",), fresh.scatter.values(), strict=False))
        for name, tensor in (states | {"classes_kept": kept}).items():
            # Gathered, not summed: Chan's merge of the ranks' means is exact.
            self.add_state(name, default=tensor, dist_reduce_fx=None)
        self._summed = tuple(states)
        self._template = _emptied(fresh)

    @torch.jit.unused
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Add a batch and return what :meth:`compute` says of it alone.

        Args:
            args: those of ``update``.
            kwargs: those of ``update``.

        Returns:
            The batch's values. Where this raises, the metric is what it was.
        """
        before = dict(vars(self))
        if self.dist_sync_on_step:  # then the batch is added in place, before it is known to serve
            before |= {name: tensor.clone() for name, tensor in self._own_state().items()}
        try:
            return super().forward(*args, **kwargs)
        except BaseException:
            # torchmetrics' own has reset the states by now, and told compute not to sync ranks.
            vars(self).update(before)
            raise

    def _own_state(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self._summed}

    def _set(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in state.items():
            setattr(self, name, tensor)

    def _add(self, features: Tensor, labels: Tensor) -> None:
        state = self._own_state()
        kept_in_inference = any(tensor.is_inference() for tensor in state.values())
        if kept_in_inference and not torch.is_inference_mode_enabled():
            state = {name: tensor.clone() for name, tensor in state.items()}
            self._set(state)
        # In place: a batch touches the rows of its classes and no others. Nor is roundoff read, for
        # which a GPU would have to be waited for.
        stats = self._around(state)
        stats.update(features, labels)
        state["roundoff"].clamp_(min=stats.feature_roundoff)

    def _around(self, state: Mapping[str, Tensor]) -> ClassStatistics:
        """Return statistics whose tensors these are, uncopied, of features not seen yet."""
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

    def _statistics(self, state: Mapping[str, Tensor]) -> ClassStatistics:
        """Return the statistics that a state is, its tensors uncopied."""
        stats = self._around(state)
        stats.feature_roundoff = float(state["roundoff"])
        return stats

    def _over_ranks(self) -> ClassStatistics:
        """Return the statistics of all ranks after a sync, and else of this one."""
        state = self._own_state()
        if self.counts.ndim == 1:
            return self._statistics(state)
        each = [{name: t[rank] for name, t in state.items()} for rank in range(len(self.counts))]
        for rank, kept in enumerate(self.classes_kept):
            why = self._misfit(each[rank] | {"classes_kept": kept})
            if why:
                raise DataError(f"{type(self).__name__}.compute: rank {rank}'s state: {why}")
        stats = self._statistics({name: t.clone() for name, t in each[0].items()})
        for other in each[1:]:
            stats.merge(self._statistics(other))
        return stats

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        """Merge a state into this one: torchmetrics' hook of forward, merge_state and Running."""
        why = self._misfit(incoming_state)
        if why:
            raise DataError(f"{type(self).__name__}: the incoming state: {why}")
        state = {name: t.clone() for name, t in self._own_state().items()}
        other = {
            name: incoming_state[name].to(device=t.device, dtype=t.dtype)
            for name, t in state.items()
        }
        merged = self._statistics(state)
        merged.merge(self._statistics(other))
        state["roundoff"].fill_(merged.feature_roundoff)
        self._set(state)
        self._computed = None

    def _misfit(self, given: Mapping[str, Tensor]) -> str | None:
        """Say why a state is none that this metric could have come to, or return None."""
        # What is compared with was never loaded, and says what this metric was made with.
        own: dict[str, Any] = {name: self._defaults[name] for name in self._summed}
        kept: Any = self._defaults["classes_kept"]
        for name in (*own, "classes_kept"):
            if name not in given:
                return f"it has no {name}{_OLDER if name in _NEWER else ''}"
        if "scatter" in given and "scatter" not in own:
            return "it has a scatter; expected one of scatter=False"
        theirs = given["classes_kept"].to(kept.device)
        if theirs.shape != kept.shape:
            given_as = " x ".join(map(str, theirs.shape))
            return f"its num_classes is {given_as}; expected {kept.numel()}"
        if not torch.equal(theirs.bool(), kept.bool()):
            return f"it keeps {_differing(theirs, kept)}, and lacks {_differing(kept, theirs)}"
        if given["means"].shape[-1:] != own["means"].shape[-1:]:
            return f"its dim is {given['means'].shape[-1]}; expected {own['means'].shape[-1]}"
        for name, default in own.items():
            if given[name].shape != default.shape:
                return f"its {name} is {tuple(given[name].shape)}; expected {tuple(default.shape)}"
        if not bool(given["counts"].any()):
            return None
        if not float(given["roundoff"]) > 0:
            return f"it has tokens, and its roundoff is {float(given['roundoff'])}{_OLDER}"
        if given["means"].dtype == torch.float64 != self.means.dtype:
            return f"its means are float64; expected {self.means.dtype}, or {_WIDER}"
        return None

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Load all of a state, or nothing where it is not one of this metric's."""
        names = (*self._summed, "classes_kept", "scatter")
        given = {name: state_dict[prefix + name] for name in names if prefix + name in state_dict}
        why = self._misfit(given) if given else None
        if why:
            errors: list[str] = args[-1]
            errors.append(f"{prefix or type(self).__name__}: the state to load: {why}")
            return
        for name, tensor in given.items():
            own: Tensor = getattr(self, name)
            # A copy: updates are in place, and others may load the same state.
            state_dict[prefix + name] = tensor.to(own.device, own.dtype, copy=True)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._computed = None  # of the state before

    def _apply(self, fn: Any, exclude_state: Any = "") -> Any:
        """Move with the module that holds it; sums stay wide, also in a model of 16 bits."""
        held = [(vars(self), dict(self.metric_state)), (self._defaults, dict(self._defaults))]
        super()._apply(fn, exclude_state)
        for place, before in held:
            for name in (*self._summed, "classes_kept"):
                old: Any = before[name]
                moved: Any = place[name]
                wide = name == "means" and moved.dtype in (torch.float32, torch.float64)
                if moved.dtype != old.dtype and not wide:
                    place[name] = old.to(moved.device)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        lacking = [name for name in _NEWER if name not in self._defaults]
        if lacking:
            raise DataError(f"{type(self).__name__}: what was pickled has no {lacking[0]}{_OLDER}")


_NEWER = ("roundoff", "classes_kept")
_OLDER = (
    ", as those that an older ncfast kept: it did not note how coarse features were, without which "
    "rounding cannot be told from what was measured; expected one that this version kept"
)
_WIDER = "set_dtype(torch.float64) before"


def _differing(some: Tensor, others: Tensor) -> str:
    """Name the classes that one marks and the other does not."""
    ids = ((some > 0) & (others <= 0)).nonzero()[:, 0]
    if not ids.numel():
        return "no others"
    more = f" and {ids.numel() - 5} more" if ids.numel() > 5 else ""
    return f"other classes, {ids[:5].tolist()}{more}"


def _emptied(stats: ClassStatistics) -> ClassStatistics:
    """Return what makes statistics up but their state, to be put around other tensors."""
    stats.counts = stats.means = stats.m2 = stats._tally = torch.zeros(0)
    stats.scatter = {}
    return stats
