"""What a measurement returns: values by key, and what is needed to read them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..catalogue import range_of, remark
from .sampling import Estimate

__all__ = ["NCReport", "Values", "dispersion"]

# Above it, 95 % intervals of std over pairs covered 0.80 to 0.94 in 1,000 repeats; below it, 0.94
# and more (tests/test_metrics_sampling.py).
IMBALANCED = 0.25


class NCReport(Mapping[str, float]):
    """Hold metrics by key; NaN where one is undefined, with the reason in ``notes``.

    Attributes:
        notes: key -> why the value is NaN or needs care.
        per_class: 1-D tensors over the classes measured: ``class_ids``, ``counts``, ``variances``,
            ``norms`` (of the centred class means) and, with a head, ``cosines`` and ``head_norms``.
        settings: how it was computed: ``center``, ``preset``, and ``pairs``: ``"all"`` or how many
            were drawn.
        standard_errors: key -> standard error, of values estimated from drawn pairs (``pairs=``);
            empty where every pair was visited.
        intervals: key -> (low, high), a 95 % interval of the same values that allows for skewness,
            so the value need not be in its middle.
        distributions: with ``histograms``, ``"pair_log_distance"`` and ``"pair_cosine"``: a
            mapping with ``edges`` (bins + 1), ``counts`` (per bin, the last edge included),
            ``outside`` (pairs beyond the edges) and ``coincident`` (pairs left out because a
            direction is missing or shared).
    """

    def __init__(
        self,
        values: Mapping[str, float],
        notes: Mapping[str, str],
        per_class: Mapping[str, Tensor],
        settings: Mapping[str, str],
        standard_errors: Mapping[str, float] | None = None,
        intervals: Mapping[str, tuple[float, float]] | None = None,
        distributions: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._values = {key: float(value) for key, value in values.items()}
        self.notes = dict(notes)
        self.per_class = dict(per_class)
        self.settings = dict(settings)
        self.standard_errors = dict(standard_errors or {})
        self.intervals = dict(intervals or {})
        self.distributions = {name: dict(found) for name, found in (distributions or {}).items()}

    def __getitem__(self, key: str) -> float:
        if key not in self._values:
            near = " or ".join(map(repr, difflib.get_close_matches(str(key), self._values)))
            meant = f"did you mean {near}?" if near else f"expected one of {list(self)}"
            raise KeyError(f"no metric {key!r} in this report; {meant}")
        return self._values[key]

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def to_dict(self) -> dict[str, float]:
        """Return the values by key."""
        return dict(self._values)

    def to_frame(self, per_class: bool = False) -> Any:
        """Return a pandas DataFrame of the values, or of what each class is by itself.

        Args:
            per_class: False gives columns ``metric``, ``value`` and ``note`` (where pairs were
                drawn, a column ``standard_error`` stands before the note); True gives a row per
                class measured, with the columns of ``per_class`` and ``class_ids`` as the index.

        Raises:
            ImportError: pandas is not installed.

        >>> import ncfast
        >>> stats = ncfast.ClassStatistics(3, 2)
        >>> stats.update(torch.eye(2), torch.tensor([0, 2]))
        >>> ncfast.neural_collapse(stats).to_frame(per_class=True)["counts"].to_dict()
        {0: 1, 2: 1}
        """
        try:
            import pandas
        except ImportError:
            raise ImportError(
                "NCReport.to_frame needs pandas: pip install 'ncfast[report]'"
            ) from None
        if per_class:
            arrays = {name: column.cpu().numpy() for name, column in self.per_class.items()}
            return pandas.DataFrame(arrays).set_index("class_ids")
        columns = {"metric": list(self), "value": list(self.values())}
        if self.standard_errors:
            columns["standard_error"] = [self.standard_errors.get(key, math.nan) for key in self]
        columns["note"] = [self.notes.get(key, "") for key in self]
        return pandas.DataFrame(columns)

    def plot(self, bins: int = 60) -> Any:
        """Draw the distributions behind the values: norms, cosines, pairs; see :mod:`.figure`.

        Args:
            bins: of the histograms over classes; those over pairs have the bins that
                ``neural_collapse(histograms=...)`` counted, and are left out where it counted none.

        Returns:
            A ``matplotlib.figure.Figure``: ``figure.savefig("report.png")`` writes it. No window is
            opened and no global state of pyplot is touched.

        Raises:
            ImportError: matplotlib is not installed.
            ncfast.DataError: No class occurred.
            ValueError: ``bins`` is no positive number.

        >>> import ncfast
        >>> stats = ncfast.ClassStatistics(3, 3)
        >>> stats.update(torch.eye(3), torch.arange(3))
        >>> len(ncfast.neural_collapse(stats, torch.eye(3)).plot().axes)
        3
        """
        from .figure import draw

        return draw(self, self.per_class, self.distributions, bins)

    def __str__(self) -> str:
        width = max(map(len, self._values))
        lines = []
        for key, value in self.items():
            error = self.standard_errors.get(key)
            spread = "" if error is None else f"+/- {error:.2g}  "
            note = self.notes.get(key, "")
            lines.append(f"{key:<{width}}  {value:>14.6g}  {spread}{note}".rstrip())
        return "\n".join(lines)


class Values:
    """Collect metric values, the reasons for those that are undefined, and standard errors."""

    def __init__(self, classes: int, norms: str) -> None:
        self.classes, self.norms = classes, norms  # what ranges depend on
        self.values: dict[str, float] = {}
        self.notes: dict[str, str] = {}
        self.standard_errors: dict[str, float] = {}
        self.intervals: dict[str, tuple[float, float]] = {}

    def put(self, key: str, value: float, undefined: str = "", note: str = "") -> None:
        """Add a value; a reason in ``undefined`` makes it NaN, a ``note`` goes along with it.

        What lies on the edge of its range, or beyond it, is noted too.
        """
        self.values[key] = math.nan if undefined else value
        if undefined:
            self.notes[key] = undefined
        elif not math.isfinite(value):
            self.notes[key] = f"the definition gives {value} here"
        elif note := "; ".join(filter(None, (note, remark(key, value, self.classes, self.norms)))):
            self.notes[key] = note

    def put_estimate(self, key: str, found: Estimate) -> None:
        """Add how well a value is known that was estimated from drawn pairs."""
        self.standard_errors[key] = found.error
        # No value outside the range is meant by an interval that reaches over its end.
        low, high = range_of(key, self.norms).ends(self.classes)
        self.intervals[key] = (_between(found.low, low, high), _between(found.high, low, high))
        if found.imbalance > IMBALANCED:
            reason = "few of the drawn pairs decide this value: its interval may be too short"
            self.notes[key] = "; ".join(filter(None, (self.notes.get(key), reason)))


def _between(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def dispersion(values: Tensor) -> tuple[float, float, float]:
    """Return mean, Bessel-corrected std (NaN below two values), and population std over mean."""
    count = values.numel()
    mean = float(values.mean()) if count else math.nan
    std = float(values.std()) if count > 1 else math.nan
    population = float(torch.std(values, correction=0)) if count else math.nan
    return mean, std, population / mean if mean else math.nan
