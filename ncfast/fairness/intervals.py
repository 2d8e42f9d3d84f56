"""An interval: its ends and its standard error."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LEVEL", "Interval", "wider"]

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """Hold the ends of an interval and the standard error; None where nothing varies to tell."""

    low: float | None = None
    high: float | None = None
    standard_error: float | None = None


def wider(one: Interval, two: Interval) -> Interval:
    """Return the wider of two intervals, or the one that there is.

    >>> wider(Interval(), Interval(0.0, 1.0))
    Interval(low=0.0, high=1.0, standard_error=None)
    """
    if two.low is None or two.high is None:
        return one
    if one.low is None or one.high is None or two.high - two.low > one.high - one.low:
        return two
    return one
