"""What a pass has counted: saved with its statistics, and read back through one schema."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from ..errors import DataError

__all__ = ["Counters"]


@dataclass
class Counters:
    """Count what a pass has done so far; saved with the statistics.

    >>> Counters().position
    0
    """

    position: int = 0  # batches done, over all mask passes
    tokens: int = 0  # real tokens that went through the model
    kept: int = 0  # positions that entered a class
    dropped: dict[str, int] = field(default_factory=dict)  # positions that did not, by reason
    seconds: float = 0.0  # time of the pass, all in all
    forward_seconds: float = 0.0  # time of the model's forward
    statistics_seconds: float = 0.0  # time of updating the statistics
    saving_seconds: float = 0.0  # time of saving them

    @classmethod
    def parse(cls, found: object) -> Counters:
        """Make counters of what JSON holds; DataError if one is missing, unknown, negative or
        mistyped.

        >>> Counters.parse({"position": -5})
        Traceback (most recent call last):
        ncfast.errors.DataError: its counter position is -5; expected a whole number, at least 0
        """
        if not isinstance(found, dict):
            raise DataError(f"its counters are {str(found)[:40]}; expected an object")
        for counter in fields(cls):
            if counter.name in found:
                _check(counter.name, counter.type, found[counter.name])
        names = {counter.name for counter in fields(cls)}
        if different := sorted(names ^ set(found)):
            said = "unknown" if different[0] in found else "missing"
            raise DataError(f"its counter {different[0]} is {said}")
        return cls(**found)


def _check(name: str, kind: Any, value: object) -> None:
    if kind == "int":
        right, expected = _is_count(value), "a whole number, at least 0"
    elif kind == "float":
        right, expected = _is_time(value), "a number, at least 0"
    else:
        right = isinstance(value, dict) and all(map(_is_count, value.values()))
        expected = "whole numbers, at least 0, by reason"
    if not right:
        raise DataError(f"its counter {name} is {str(value)[:40]}; expected {expected}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_time(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 <= value < 2**63  # NaN is neither
