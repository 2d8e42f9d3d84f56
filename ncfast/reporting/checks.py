"""What a value read from a file must be: checks that name the place and say what was expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

LARGEST = 1e300  # differences and ratios of numbers below it are finite or said to be undefined
MOST = 2**63 - 1  # of a count
DEEPEST = 20  # levels below a key of unknown content


class Check:
    """Check a value at a place in the report; ``expected`` says in words what it should be."""

    def __init__(
        self, expected: str, test: Callable[[Any], bool], form: Mapping[str, Any] | None = None
    ) -> None:
        self.expected, self.test, self.form = expected, test, form

    def as_json_schema(self) -> dict[str, Any]:
        """Return what JSON Schema can say of the check; bounds on nesting it cannot.

        >>> OrNull(List(COUNT, "counts")).as_json_schema()["anyOf"][0]["items"]
        {'type': 'integer', 'minimum': 0, 'maximum': 9223372036854775807}
        """
        return dict(self.form or {})

    def __call__(self, value: Any, at: str) -> None:
        if not self.test(value):
            raise ValueError(f"{at} is {found(value)}; expected {self.expected}")


class Fields(Check):
    """Check an object of known keys; others may hold anything."""

    def __init__(self, required: Mapping[str, Check], later: Mapping[str, Check]) -> None:
        super().__init__("an object", _is_object)
        self.required, self.known = required, {**required, **later}

    def as_json_schema(self) -> dict[str, Any]:
        """Return an object with these properties, open to others."""
        properties = {name: one.as_json_schema() for name, one in self.known.items()}
        found = {"type": "object", "properties": properties}
        return found | ({"required": list(self.required)} if self.required else {})

    def __call__(self, value: Any, at: str) -> None:
        super().__call__(value, at)
        for name in self.required:
            if name not in value:
                expected = self.required[name].expected
                raise ValueError(f"{_join(at, name)} is missing; expected {expected}")
        for name, one in value.items():
            self.known.get(name, ANYTHING)(one, _join(at, name))


class Names(Check):
    """Check an object whose keys are names: of metrics, of sets, of words."""

    def __init__(self, of: Check, plural: str) -> None:
        super().__init__(f"an object of {plural}", _is_object)
        self.of = of

    def as_json_schema(self) -> dict[str, Any]:
        """Return an object whose every value is of one kind."""
        return {"type": "object", "additionalProperties": self.of.as_json_schema()}

    def __call__(self, value: Any, at: str) -> None:
        super().__call__(value, at)
        for name, one in value.items():
            self.of(one, _join(at, name))


class List(Check):
    """Check a list, of a given length where one is given."""

    def __init__(self, of: Check, plural: str, length: int | None = None) -> None:
        count = "a list of" if length is None else f"a list of {length}"
        super().__init__(
            f"{count} {plural}",
            lambda value: isinstance(value, list) and length in (None, len(value)),
        )
        self.of, self.length = of, length

    def as_json_schema(self) -> dict[str, Any]:
        """Return an array of one kind, of a length where there is one."""
        found: dict[str, Any] = {"type": "array", "items": self.of.as_json_schema()}
        if self.length is not None:
            found |= {"minItems": self.length, "maxItems": self.length}
        return found

    def __call__(self, value: Any, at: str) -> None:
        super().__call__(value, at)
        for index, one in enumerate(value):
            self.of(one, f"{at}[{index}]")


class OrNull(Check):
    """Check what may be null."""

    def __init__(self, of: Check) -> None:
        super().__init__(f"{of.expected}, or null", lambda value: True)
        self.of = of

    def as_json_schema(self) -> dict[str, Any]:
        """Return what it is of, or null."""
        return {"anyOf": [self.of.as_json_schema(), {"type": "null"}]}

    def __call__(self, value: Any, at: str) -> None:
        if value is not None:
            self.of(value, at)


class Histogram(Fields):
    """Check a histogram: one edge more than counts, in rising order."""

    def __call__(self, value: Any, at: str) -> None:
        super().__call__(value, at)
        edges, counts = value["edges"], value["counts"]
        if len(edges) != len(counts) + 1 or any(b < a for a, b in pairwise(edges)):
            raise ValueError(
                f"{at}.edges is {found(edges)} beside {len(counts)} counts; expected one edge "
                "more than counts, in rising order"
            )


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def found(value: Any) -> str:
    """Say in few words what stands at a place.

    >>> found(None), found([1, 2]), found("a")
    ('null', 'a list of 2', "'a'")
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = repr(value) if isinstance(value, (str, float)) or abs(value) < MOST else "a huge number"
    return text if len(text) <= 40 else f"{text[:37]}..."


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -LARGEST <= value <= LARGEST  # never so of NaN


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST


def _is_plain(value: Any) -> bool:
    """Tell whether numbers in a value of any kind are finite, and its nesting is bounded."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for one in level
            if isinstance(one, (dict, list))
            for inner in (one.values() if isinstance(one, dict) else one)
        ] + [one for one in level if isinstance(one, (int, float)) and not _is_scalar(one)]
        if not level:
            return True
    return False


def _is_scalar(value: Any) -> bool:
    return isinstance(value, bool) or _is_number(value)


ANYTHING = Check("finite numbers and no deep nesting", _is_plain)
TEXT = Check("text", lambda value: isinstance(value, str), {"type": "string"})
NAME = Check(
    "a name",
    lambda value: isinstance(value, str) and value != "",
    {"type": "string", "minLength": 1},
)
FLAG = Check("true or false", lambda value: isinstance(value, bool), {"type": "boolean"})
COUNT = Check(
    "a whole number of 0 or more", _is_count, {"type": "integer", "minimum": 0, "maximum": MOST}
)
NUMBER = Check(
    "a finite number", _is_number, {"type": "number", "minimum": -LARGEST, "maximum": LARGEST}
)
VALUE = OrNull(NUMBER)
VALUES = Names(VALUE, "numbers")
TEXTS = List(TEXT, "texts")
NOTES = Names(TEXT, "texts")
ENDS = OrNull(List(VALUE, "numbers", 2))
INTERVALS = Names(ENDS, "intervals")
