"""Modules that have another name now: what was in them is still found there, with a warning."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["moved"]


def moved(old: str, new: str, names: Mapping[str, str | Callable[[Any], Any]]) -> Any:
    """Make the ``__getattr__`` of a module whose content is elsewhere now; it warns.

    ``names``: what was public in it -> its name there, or what to make of that module.

    >>> look_up = moved("ncfast.old", "ncfast.catalogue", {"TABLE": "METRICS"})
    >>> with warnings.catch_warnings(record=True) as said:
    ...     warnings.simplefilter("always")
    ...     "nc3_mean" in look_up("TABLE"), str(said[0].message)
    (True, 'ncfast.old.TABLE is now in ncfast.catalogue')
    """

    def look_up(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        warnings.warn(f"{old}.{name} is now in {new}", DeprecationWarning, stacklevel=2)
        module, found = importlib.import_module(new), names[name]
        return found(module) if callable(found) else getattr(module, found)

    return look_up
