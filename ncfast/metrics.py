"""Neural-collapse metrics from statistics and a head: the only place that names metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from . import functional as F
from .errors import DataError
from .presets import Preset
from .presets import preset as _preset
from .statistics import ClassStatistics

__all__ = ["CENTERS", "NCReport", "neural_collapse"]

CENTERS = ("classes", "tokens", "all", "none")
_ROWS = 4096  # rows handled in float64 at a time: 24 MiB at D = 768


class NCReport(Mapping[str, float]):
    """Hold metrics by key; NaN where one is undefined, with the reason in ``notes``.

    Attributes:
        notes: key -> why the value is NaN or needs care.
        per_class: 1-D tensors over the classes measured: ``class_ids``, ``counts``, ``norms`` (of
            the centred class means) and, with a head, ``cosines`` and ``head_norms``.
        settings: how it was computed: ``center``, ``preset``.
    """

    def __init__(
        self,
        values: Mapping[str, float],
        notes: Mapping[str, str],
        per_class: Mapping[str, Tensor],
        settings: Mapping[str, str],
    ) -> None:
        self._values = {key: float(value) for key, value in values.items()}
        self.notes = dict(notes)
        self.per_class = dict(per_class)
        self.settings = dict(settings)

    def __getitem__(self, key: str) -> float:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def to_dict(self) -> dict[str, float]:
        """Return the values by key."""
        return dict(self._values)

    def to_frame(self) -> Any:
        """Return a pandas DataFrame with columns ``metric``, ``value`` and ``note``."""
        try:
            import pandas
        except ImportError:
            raise ImportError(
                "NCReport.to_frame needs pandas: pip install 'ncfast[report]'"
            ) from None
        rows = [(key, value, self.notes.get(key, "")) for key, value in self.items()]
        return pandas.DataFrame(rows, columns=["metric", "value", "note"])

    def __str__(self) -> str:
        width = max(map(len, self._values))
        lines = [
            f"{key:<{width}}  {value:>14.6g}  {self.notes.get(key, '')}".rstrip()
            for key, value in self.items()
        ]
        return "\n".join(lines)


def _dispersion(values: Tensor) -> tuple[float, float, float]:
    """Return mean, Bessel-corrected std (NaN below two values), and population std over mean."""
    count = values.numel()
    mean = float(values.mean()) if count else math.nan
    std = float(values.std()) if count > 1 else math.nan
    population = float(values.std(correction=0)) if count else math.nan
    return mean, std, population / mean if mean else math.nan


def _selected_slots(stats: ClassStatistics, classes: Any) -> Tensor:
    """Return the slots that are present and selected, in class order."""
    present = stats.counts > 0
    if classes is None:
        return present.nonzero()[:, 0]
    ids = torch.as_tensor(classes, dtype=torch.int64, device=stats.device).flatten()
    if ids.numel() == 0:
        raise DataError("neural_collapse: classes is empty; expected at least one class id")
    if int(ids.min()) < 0 or int(ids.max()) >= stats.num_classes:
        raise DataError(
            f"neural_collapse: classes holds ids from {int(ids.min())} to {int(ids.max())}; "
            f"expected ids in [0, {stats.num_classes})"
        )
    slots = stats._kept_slots(torch.unique(ids), "classes")
    return slots[present[slots]]


def _mean_of_rows(points: Tensor, slots: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the (weighted) mean of some rows in float64, a few thousand rows at a time."""
    total = torch.zeros(points.shape[1], dtype=torch.float64, device=points.device)
    for part, share in zip(
        slots.split(_ROWS),
        (weights.split(_ROWS) if weights is not None else slots.split(_ROWS)),
        strict=True,
    ):
        rows = points[part].double()
        total += rows.sum(0) if weights is None else share.double() @ rows
    return total / (slots.numel() if weights is None else weights.sum().double())


def _center(stats: ClassStatistics, slots: Tensor, center: str) -> Tensor:
    """Return the [D] float64 vector that class means are measured from."""
    if center not in CENTERS:
        raise ValueError(f"neural_collapse: center is {center!r}; expected one of {CENTERS}")
    if center == "none" or slots.numel() == 0:
        return torch.zeros(stats.dim, dtype=torch.float64, device=stats.device)
    if center == "tokens":
        return _mean_of_rows(stats.means, slots, stats.counts[slots])
    if center == "all":
        if stats.classes is not None:
            raise DataError(
                "neural_collapse: center='all' needs the means of every class, but this state "
                f"keeps {stats.classes.numel()} of {stats.num_classes} classes"
            )
        return _mean_of_rows(stats.means, (stats.counts > 0).nonzero()[:, 0])
    return _mean_of_rows(stats.means, slots)


def _check_head(stats: ClassStatistics, head_weight: Tensor) -> None:
    shape = (stats.num_classes, stats.dim)
    if tuple(head_weight.shape) != shape or head_weight.device != stats.device:
        raise ValueError(
            f"neural_collapse: head_weight is {tuple(head_weight.shape)} on {head_weight.device}; "
            f"expected {shape} on {stats.device}"
        )


def _per_class(
    stats: ClassStatistics, slots: Tensor, center: Tensor, head_weight: Tensor | None
) -> dict[str, Tensor]:
    """Return norms, and cosines with the head, of the selected classes, in float64."""
    ids = stats.class_ids[slots]
    norms, cosines, head_norms = [], [], []
    for slot_part, id_part in zip(slots.split(_ROWS), ids.split(_ROWS), strict=True):
        points = stats.means[slot_part].double()
        norms.append((points - center).norm(dim=1))
        if head_weight is not None:
            rows = head_weight.detach()[id_part].double()
            cosines.append(F.alignment(rows, points, center))
            head_norms.append(rows.norm(dim=1))
    empty = center.new_zeros(0)
    result = {"class_ids": ids, "counts": stats.counts[slots], "norms": torch.cat([*norms, empty])}
    if head_weight is not None:
        result["cosines"] = torch.cat([*cosines, empty])
        result["head_norms"] = torch.cat([*head_norms, empty])
    return result


class _Values:
    """Collect metric values and the reasons for those that are undefined."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.notes: dict[str, str] = {}

    def put(self, key: str, value: float, undefined: str = "") -> None:
        self.values[key] = math.nan if undefined else value
        if undefined:
            self.notes[key] = undefined
        elif not math.isfinite(value):
            self.notes[key] = f"the definition gives {value} here"


def _variability(out: _Values, stats: ClassStatistics, slots: Tensor, norms: Tensor) -> None:
    tokens = int(stats.counts[slots].sum())
    none = "no class occurred" if not slots.numel() else ""
    few = "needs two classes" if slots.numel() < 2 else ""
    within = float(stats.m2[slots].sum()) / max(tokens, 1)
    between = float(norms.square().mean()) if slots.numel() else math.nan
    out.put("trace_within", within, none)
    out.put("trace_between", between, none)
    degenerate = few or ("all class means are equal" if between == 0 else "")
    out.put("nc1_quotient", within / between if between else math.nan, degenerate)


def _norms(out: _Values, norms: Tensor, conventions: Preset) -> None:
    few = "needs two classes" if norms.numel() < 2 else ""
    zero = "a class mean equals the center" if bool((norms == 0).any()) else ""
    logs = norms.log()
    of = {"plain": norms, "squared": norms.square(), "log": logs}[conventions.norms]
    mean, _, cov = _dispersion(of)
    undefined = few or (zero if conventions.norms == "log" else "")
    out.put("norm_mean", mean, "no class occurred" if not norms.numel() else undefined and zero)
    out.put("norm_cov", cov, undefined)
    out.put("log_norm_std", _dispersion(logs)[1], few or zero)


def _duality(out: _Values, cosines: Tensor | None) -> None:
    keys = ("nc3_mean", "nc3_distance", "unc3_std", "unc3_var", "unc3_cov")
    if cosines is None or cosines.numel() == 0:
        reason = "no head_weight was given" if cosines is None else "no class occurred"
        for key in keys:
            out.put(key, math.nan, reason)
        return
    mean, std, cov = _dispersion(cosines)
    few = "needs two classes" if cosines.numel() < 2 else ""
    out.put("nc3_mean", mean)
    out.put("nc3_distance", float((2 - 2 * cosines).clamp(min=0).sqrt().mean()))
    out.put("unc3_std", std, few)
    out.put("unc3_var", std**2, few)
    out.put("unc3_cov", cov, few or ("the mean cosine is zero" if mean == 0 else ""))


def neural_collapse(
    stats: ClassStatistics,
    head_weight: Tensor | None = None,
    classes: Any = None,
    center: str = "classes",
    preset: str = "ncfast",
) -> NCReport:
    r"""Compute neural-collapse metrics of the classes that occurred.

    With class means :math:`\mu_c`, center :math:`\bar\mu`, head rows :math:`w_c` and
    :math:`s_c = \cos(w_c, \mu_c - \bar\mu)`:

    ================  ==================================================================
    trace_within      :math:`\frac1N \sum_i \|x_i - \mu_{y_i}\|^2`
    trace_between     :math:`\frac1K \sum_c \|\mu_c - \bar\mu\|^2`
    nc1_quotient      trace_within / trace_between
    norm_mean         mean of :math:`\|\mu_c - \bar\mu\|` (``preset`` chooses plain, squared, log)
    norm_cov          population std over mean of the same
    log_norm_std      Bessel std of :math:`\log\|\mu_c - \bar\mu\|`
    nc3_mean          mean of :math:`s_c`; 1 when collapsed
    nc3_distance      mean of :math:`\|\hat w_c - \hat\mu_c\| = \sqrt{2 - 2 s_c}`
    unc3_std/var/cov  Bessel std and variance of :math:`s_c`; population std over mean
    ================  ==================================================================

    Args:
        stats: what was seen.
        head_weight: [V, D] float, the head's rows; None leaves the NC3 keys undefined.
        classes: ids to measure; None measures every class that occurred. Ids that did not occur
            are left out.
        center: ``"classes"``: mean of the selected class means; ``"tokens"``: the same weighted by
            counts; ``"all"``: mean over every class that occurred, even when ``classes`` selects
            some; ``"none"``: zero.
        preset: conventions of a source, see :mod:`ncfast.presets`.

    Returns:
        An :class:`NCReport`. Undefined values (fewer than two classes, a zero spread) are NaN with
        the reason in ``notes``. All in float64; no gradients.

    Raises:
        ValueError: The head's shape, ``center`` or ``preset`` is wrong.
        ncfast.DataError: A class id is out of range, not kept, or ``classes`` is empty; or
            ``center="all"`` is asked of a state that keeps a subset.

    Source: Linguistic Collapse (arXiv 2405.17767); Collapsed Language Models Promote Fairness
    (arXiv 2410.04472).

    >>> stats = ClassStatistics(2, 2)
    >>> stats.update(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))
    >>> report = neural_collapse(stats, head_weight=torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    >>> round(report["nc3_mean"], 6), report["trace_within"]
    (1.0, 0.0)
    """
    conventions = _preset(preset)
    slots = _selected_slots(stats, classes)
    middle = _center(stats, slots, center)
    if head_weight is not None:
        _check_head(stats, head_weight)
    per_class = _per_class(stats, slots, middle, head_weight)
    out = _Values()
    out.put("tokens", float(per_class["counts"].sum()))
    out.put("classes", float(slots.numel()))
    _variability(out, stats, slots, per_class["norms"])
    _norms(out, per_class["norms"], conventions)
    _duality(out, per_class.get("cosines"))
    return NCReport(out.values, out.notes, per_class, {"center": center, "preset": preset})
