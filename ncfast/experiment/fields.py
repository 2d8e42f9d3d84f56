"""Values of a TOML file held to the types of the dataclass that will take them."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import ExperimentError

_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def check_fields(file: str, where: str, kind: type, given: Mapping[str, Any]) -> None:
    """Check that each value is of its field's type: no text for a list, no text for a truth.

    ``given`` are values of fields of ``kind`` as TOML gives them: lists for tuples, whole numbers
    for numbers too. Another type is an ExperimentError that names file and table.

    >>> from ncfast.experiment.parts import Contrast
    >>> check_fields("a.toml", "contrasts 'ours'", Contrast, {"primary": "false"})
    Traceback (most recent call last):
    ncfast.experiment.errors.ExperimentError: a.toml: contrasts 'ours' has primary = 'false';
    expected true or false
    """
    hints = get_type_hints(kind)
    for name, value in given.items():
        if not _fits(value, hints[name]):
            shown = repr(value) if len(repr(value)) < 60 else f"{repr(value)[:57]}..."
            raise ExperimentError(
                f"{file}: {where} has {name} = {shown}; expected {_words(hints[name])}"
            )


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        return isinstance(value, (list, tuple)) and all(_fits(one, inner[0]) for one in value)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, dict) and all(_fits(one, inner[1]) for one in value.values())
    if hint is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(one) for one in inner if one in _NAMES or get_origin(one))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is tuple:
        return f"a list, each {_words(inner[0])}"
    if origin is not None and issubclass(origin, Mapping):
        return "a table" if inner[1] is Any else f"a table, each {_words(inner[1])}"
    return _NAMES.get(hint, "another type")
