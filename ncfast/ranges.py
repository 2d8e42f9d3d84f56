"""What values a metric can have: its mathematical range, beside no tensor.

One table for every key of an ``NCReport`` and every column of its ``per_class``. K is the number of
classes measured. What a report holds lies inside; a value on the edge of its range gets a note, and
one beyond it is a fault of this package, said in the note too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["PER_CLASS", "RANGES", "Range", "range_of", "remark"]

End = float | Callable[[int], float]
INFINITE = math.inf
# Of an end that is not 0: float32 pairs are formed from unit rows with an error of a few 2^-24, and
# so are cosines of half-precision heads. An end of 0 is met exactly or not at all.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Range:
    """Hold the least and the greatest value, each a number or a function of K.

    Args:
        low, high: the ends.
        open_low: whether the low end itself cannot be reached.
        why: what the range follows from.
    """

    low: End
    high: End
    open_low: bool = False
    why: str = ""

    def ends(self, classes: int) -> tuple[float, float]:
        """Return (low, high) for K classes, at least two.

        >>> RANGES["interference_mean"].ends(5)
        (-0.25, 1.0)
        """
        classes = max(classes, 2)
        low = self.low(classes) if callable(self.low) else self.low
        high = self.high(classes) if callable(self.high) else self.high
        return low, high


def _pairs(classes: int) -> float:
    return classes * (classes - 1) / 2


def _bessel(values: float) -> float:
    return math.sqrt(values / (values - 1)) if values > 1 else INFINITE


_POSITIVE = Range(0.0, INFINITE, why="a sum of squares, or a ratio of two")
_ANY = Range(-INFINITE, INFINITE)
_COSINE = Range(-1.0, 1.0, why="Cauchy-Schwarz")

RANGES: dict[str, Range] = {
    "tokens": _POSITIVE,
    "classes": _POSITIVE,
    "cdnv_mean": _POSITIVE,
    "cdnv_std": _POSITIVE,
    "cdnv2_mean": _POSITIVE,
    "cdnv2_std": _POSITIVE,
    "nc1_pinv": _POSITIVE,
    "nc1_quotient": _POSITIVE,
    "nc1_svd": _POSITIVE,
    "trace_within": _POSITIVE,
    "trace_between": _POSITIVE,
    # Of log norms, which one preset takes, both of these can be anything.
    "norm_mean": _POSITIVE,
    "norm_cov": Range(0.0, lambda k: math.sqrt(k - 1), why="values that are not negative"),
    "log_norm_std": _POSITIVE,
    "interference_mean": Range(
        lambda k: -1 / (k - 1), 1.0, why="the sum of K unit vectors has a squared length"
    ),
    "interference_std": Range(0.0, lambda k: _bessel(_pairs(k)), why="of values in [-1, 1]"),
    "equiangularity": Range(0.0, lambda k: 1 + 1 / (k - 1), why="of cosines"),
    "etf_error": Range(0.0, math.sqrt(2), why="a Gram matrix has no negative overlap"),
    "log_distance_mean": Range(-math.log(2), INFINITE, why="unit vectors are at most 2 apart"),
    "log_distance_std": _POSITIVE,
    "nc3_mean": _COSINE,
    "nc3_distance": Range(0.0, 2.0, why="between unit vectors"),
    "self_duality_error": Range(0.0, 2.0, why="between matrices of norm 1"),
    "unc3_std": Range(0.0, lambda k: _bessel(k), why="of values in [-1, 1]"),
    "unc3_var": Range(0.0, lambda k: k / (k - 1), why="of values in [-1, 1]"),
    "unc3_cov": _ANY,
    "nc4_agreement": Range(0.0, 1.0, why="a share"),
    "nc1w_mean": _POSITIVE,
    "nc1w2_mean": _POSITIVE,
    "gnc2w_mean": _ANY,
    "gnc2w_unit_mean": Range(-math.log(2), INFINITE, why="unit vectors are at most 2 apart"),
    "nc5_mean": Range(0.0, 1.0, why="of absolute cosines"),
}

PER_CLASS: dict[str, Range] = {
    "class_ids": _POSITIVE,
    "counts": Range(1.0, INFINITE, why="only classes that occurred"),
    "variances": _POSITIVE,
    "norms": _POSITIVE,
    "cosines": _COSINE,
    "head_norms": _POSITIVE,
}


def range_of(key: str, norms: str = "plain") -> Range:
    """Return the range of a key; the norms of the preset decide that of two.

    >>> range_of("norm_mean", "log").low
    -inf
    """
    return _ANY if norms == "log" and key in ("norm_mean", "norm_cov") else RANGES[key]


def remark(key: str, value: float, classes: int, norms: str = "plain") -> str:
    """Say whether a value lies on the edge of its range or beyond it; "" where inside.

    Args:
        key: the metric.
        value: finite.
        classes: K.
        norms: the preset's.

    >>> remark("nc3_mean", 1.0, 9), remark("nc3_mean", 0.5, 9)
    ('at its greatest possible value, 1', '')
    """
    found = range_of(key, norms)
    for end, name, sign in zip(found.ends(classes), ("least", "greatest"), (1, -1), strict=True):
        if math.isinf(end) or key in ("tokens", "classes"):
            continue
        inside = sign * (value - end)
        room = ROUNDING * max(1.0, abs(end)) if end else 0.0
        if inside < -room:
            return (
                f"beyond its {name} possible value, {end:.6g} ({found.why}): a fault of ncfast, "
                "please report it"
            )
        if inside <= room:
            return f"at its {name} possible value, {end:.6g}"
    return ""
