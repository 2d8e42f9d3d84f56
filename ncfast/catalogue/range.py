"""What values a metric can have: its mathematical range, a function of the number of classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

End = float | Callable[[int], float]
INFINITE = math.inf
# Of an end that is not 0: float32 pairs are formed from unit rows with an error of a few 2^-24, and
# so are cosines of half-precision heads. An end of 0 is met exactly or not at all.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Range:
    """Hold the least and the greatest value, each a number or a function of K, and why.

    What a report holds lies inside; a value at an end gets a note, and one beyond it is a fault of
    this package, said in the note too.
    """

    low: End
    high: End
    why: str = ""

    def ends(self, classes: int) -> tuple[float, float]:
        """Return (low, high) for K classes, at least two.

        >>> Range(lambda k: -1 / (k - 1), 1.0).ends(5)
        (-0.25, 1.0)
        """
        classes = max(classes, 2)
        low = self.low(classes) if callable(self.low) else self.low
        high = self.high(classes) if callable(self.high) else self.high
        return low, high


def bessel(values: float) -> float:
    """Return the largest Bessel std of so many values in [-1, 1]."""
    return math.sqrt(values / (values - 1)) if values > 1 else INFINITE


ANY = Range(-INFINITE, INFINITE)
POSITIVE = Range(0.0, INFINITE, "a sum of squares, or a ratio of two")
COSINE = Range(-1.0, 1.0, "Cauchy-Schwarz")

# The columns of an NCReport's ``per_class``.
PER_CLASS: dict[str, Range] = {
    "class_ids": POSITIVE,
    "counts": Range(1.0, INFINITE, "only classes that occurred"),
    "variances": POSITIVE,
    "norms": POSITIVE,
    "cosines": COSINE,
    "head_norms": POSITIVE,
}
