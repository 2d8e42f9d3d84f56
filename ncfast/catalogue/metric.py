"""What an entry of the catalogue says about a metric."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .range import Range

LOWER = "lower = more collapsed"
HIGHER = "higher = more collapsed"

FAMILIES: dict[str, str] = {
    "Size": "How much was measured.",
    "NC1": "Within-class variability: do all occurrences of a word share one vector?",
    "NC2": "Geometry of the class means: are they equally long and spread evenly?",
    "NC3": "Duality: does a word's class mean point where its row of the output head points?",
    "NC4": "Decisions: does the nearest class mean choose the same word as the output head?",
    "Calibrated": "NC1 and NC2 with the rows of the output head in place of the class means.",
    "NC5": "Out of distribution: are other features orthogonal to the class means?",
    "Rounding": "What rounding leaves undecided, and how far from its cut-off the rest is.",
    "Other": "Further values.",
}


@dataclass(frozen=True)
class Published:
    """Hold which columns of a file of published measurements are the same quantity.

    >>> Published(("simcos_var",), root=True).compute(0.25)
    0.5
    """

    columns: tuple[str, ...]  # one column, or hits and misses
    root: bool = False  # whether ours is the square root of it
    # (setting, value) that ours must have been measured with to be the same
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def formula(self) -> str:
        """Say in a few signs how ours is computed from the columns."""
        if len(self.columns) == 2:
            return "{0} / ({0} + {1})".format(*self.columns)
        return f"{'√' * self.root}{self.columns[0]}"

    @property
    def compute(self) -> Callable[..., float]:
        """Return the computation."""
        if len(self.columns) == 2:
            return lambda hits, misses: hits / (hits + misses) if hits + misses else math.nan
        return math.sqrt if self.root else lambda value: value


@dataclass(frozen=True)
class Metric:
    """Hold one metric."""

    family: str  # a key of ``FAMILIES``: which NC it is of
    title: str  # the name in tables
    symbol: str  # the short name, in formulas and verdicts
    formula: str  # in the letters of ``LETTERS``; empty where the meaning says it
    meaning: str  # one sentence in plain language
    range: Range  # what values it can have
    direction: str = ""  # ``LOWER`` or ``HIGHER``; empty where neither way is more collapsed
    # whether a ratio of two values means something; not without a meaningful zero, as of a
    # logarithm or of a mean that can have either sign
    ratio: bool = True
    # what it is undefined without: ``head``, ``scatter``, ``agreement``, ``ood_mean``
    needs: str = ""
    # the setting of a preset (:class:`ncfast.presets.Preset`) that decides what it is; all others
    # mean the same under every preset
    defined_by: str = ""
    asks: str = ""  # of a leading metric, what it measures in a few words; empty for all others
    collapsed: str = ""  # of a leading metric, the value of a collapsed model, or the direction
    published: Published | None = None  # the same quantity among published measurements

    @property
    def aside(self) -> bool:
        """Whether it says how much was measured, or how well, and nothing of collapse."""
        return self.family in ("Size", "Rounding")
