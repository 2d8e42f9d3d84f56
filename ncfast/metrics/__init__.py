"""Neural-collapse metrics from statistics and a head: the only place that names metrics."""

from __future__ import annotations

from .bootstrap import bootstrap_intervals, bootstrap_values, intervals_of
from .collapse import KEYS, neural_collapse, shared_collapse
from .report import NCReport
from .selection import CENTERS

__all__ = [
    "CENTERS",
    "KEYS",
    "NCReport",
    "bootstrap_intervals",
    "bootstrap_values",
    "intervals_of",
    "neural_collapse",
    "shared_collapse",
]
