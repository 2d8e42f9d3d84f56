"""A report as a figure: the distributions over classes and over pairs, with their means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy

from ..errors import DataError

__all__ = ["draw"]

# column of per_class -> title, label of the axis, the key that is its mean
_CLASSES = {
    "norms": ("Distance of class means from the center", "norm", ""),
    "cosines": ("Head row and class mean (NC3)", "cosine", "nc3_mean"),
    "head_norms": ("Head rows", "norm", ""),
}
_PAIRS = {
    "pair_cosine": ("Pairs of class means (NC2)", "cosine", "interference_mean"),
    "pair_log_distance": (
        "Pairs of class means (GNC2)",
        "log of one over the distance",
        "log_distance_mean",
    ),
}


def draw(
    values: Mapping[str, float],
    per_class: Mapping[str, Any],
    distributions: Mapping[str, Mapping[str, Any]],
    bins: int,
) -> Any:
    """Draw what a report holds; :meth:`NCReport.plot` says how."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("NCReport.plot needs matplotlib: pip install 'ncfast[report]'") from None
    if not isinstance(bins, int) or isinstance(bins, bool) or bins < 1:
        raise ValueError(f"NCReport.plot: bins is {bins!r}; expected a number of bins")
    if not values["classes"]:
        raise DataError("NCReport.plot: no class occurred; expected at least one to draw")
    classes = [name for name in _CLASSES if name in per_class]
    pairs = [name for name in _PAIRS if name in distributions]
    count = len(classes) + len(pairs)
    across = min(count, 3)
    down = math.ceil(count / across)
    figure = Figure(figsize=(4 * across, 3 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flatten()
    for panel in panels[count:]:
        panel.remove()
    for panel, name in zip(panels, classes, strict=False):
        column = per_class[name].cpu().numpy()
        counts, edges = _histogram(column, bins)
        title, label, key = _CLASSES[name]
        _panel(
            panel, counts, edges, title, label, unit="classes", mean=float(column.mean()), key=key
        )
    for panel, name in zip(panels[len(classes) :], pairs, strict=False):
        found = distributions[name]
        title, label, key = _PAIRS[name]
        counts, edges = numpy.asarray(found["counts"]), numpy.asarray(found["edges"])
        _panel(panel, counts, edges, title, label, unit="pairs", mean=values[key], key=key)
    figure.suptitle(f"{values['classes']:,.0f} classes, {values['tokens']:,.0f} tokens")
    return figure


def _histogram(column: Any, bins: int) -> tuple[Any, Any]:
    """Count values between their own ends; equal values fill one bin of a visible width."""
    low, high = float(column.min()), float(column.max())
    # What lies closer than float64 divides into bins is drawn as one value.
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        room = abs(low) / 2 or 0.5
        low, high = low - room, high + room
    return numpy.histogram(column, bins, (low, high))


def _panel(
    panel: Any,
    counts: Any,
    edges: Any,
    title: str,
    label: str,
    unit: str,
    mean: float,
    key: str,
) -> None:
    panel.stairs(counts, edges, fill=True, alpha=0.6)
    panel.set(title=title, xlabel=label, ylabel=unit)
    if math.isfinite(mean):
        panel.axvline(mean, color="black", linewidth=1, label=f"{key or 'mean'} {mean:.3g}")
        panel.legend(fontsize="small", frameon=False)
