"""Axes of a plot: where a value lies and which values carry a label."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """Map values of an interval to positions on the page.


    Raises:
        ValueError: the interval is empty, or not positive on a logarithmic axis.

    >>> Axis(0, 10, 100, 200).at(5)
    150.0
    """

    low: float  # the smallest value
    high: float  # the largest value; above ``low``, and both above 0 on a logarithmic axis
    start: float  # the position of ``low``
    end: float  # the position of ``high``; may be the smaller number, as on a vertical axis
    log: bool = False  # whether equal steps are equal ratios

    def __post_init__(self) -> None:
        if not self.high > self.low or (self.log and self.low <= 0):
            raise ValueError(f"an axis cannot run from {self.low} to {self.high}")

    def at(self, value: float) -> float:
        """Return the position of a value.

        >>> Axis(1, 100, 0, 2, log=True).at(10)
        1.0
        """
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int = 6) -> list[float]:
        """Choose round values inside the interval, rising; possibly none.

        >>> Axis(0, 1, 0, 1).ticks(5)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
        """
        if self.log:
            first = math.ceil(math.log10(self.low) - 1e-9)
            last = math.floor(math.log10(self.high) + 1e-9)
            return [10.0**power for power in range(first, last + 1)]
        raw = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(index * step, 12) for index in range(first, last + 1)]


def spanning_axis(
    values: list[float], start: float, end: float, log: bool = False, margin: float = 0.03
) -> Axis:
    """Return an axis that holds all values, at least one, with a little room at both ends.

    >>> spanning_axis([2.0, 2.0], 0, 1).low < 2.0
    True
    """
    usable = [v for v in values if v > 0] if log else values
    if not usable:
        raise ValueError("no values to span")
    low, high = min(usable), max(usable)
    if log:
        room = (high / low) ** margin if high > low else 2.0
        return Axis(low / room, high * room, start, end, log=True)
    room = (high - low) * margin if high > low else max(abs(low) * 0.1, 1e-6)
    return Axis(low - room, high + room, start, end)


def tick_label(value: float) -> str:
    """Write the label of a tick.

    >>> tick_label(10000.0), tick_label(0.25)
    ('10,000', '0.25')
    """
    text = f"{value:,.0f}" if abs(value) >= 10 and float(value).is_integer() else f"{value:g}"
    return text.replace("-", "\u2212")
