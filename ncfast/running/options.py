"""Settings of a job: an object, or its fields by keyword."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

Settings = TypeVar("Settings")
MAX_THREADS = 1024  # 10,000 were started, and two cores did nothing else for ten minutes


def with_options(
    job: str, kind: type[Settings], settings: Settings | None, options: Mapping[str, Any]
) -> Settings:
    """Return the settings of a call, those given by keyword in the place of the object's.

    ``kind`` is their dataclass; None stands for its defaults. Something else, or a keyword that is
    no field, is a TypeError naming the job; a setting that makes no sense is a ValueError.

    >>> from dataclasses import make_dataclass
    >>> Chosen = make_dataclass("Chosen", [("seed", int, 0), ("steps", int, 1)])
    >>> with_options("train", Chosen, Chosen(seed=3), {"steps": 5})
    Chosen(seed=3, steps=5)
    """
    if settings is None:
        settings = kind()
    if not isinstance(settings, kind):
        raise TypeError(
            f"{job}: settings is {settings!r}; expected {kind.__name__}, or its fields by keyword"
        )
    known = [field.name for field in fields(settings)]  # type: ignore[arg-type]
    for name in options:
        if name not in known:
            raise TypeError(
                f"{job}: there is no setting {name!r}; expected some of {', '.join(known)}"
            )
    return replace(settings, **options)  # type: ignore[type-var]


def listed(texts: str | os.PathLike[str] | Sequence[str]) -> list[str]:
    """Return one text, or several, as a list.

    >>> listed("demo:text"), listed(("a.txt", "b.txt"))
    (['demo:text'], ['a.txt', 'b.txt'])
    """
    return [os.fspath(texts)] if isinstance(texts, (str, os.PathLike)) else list(texts)


def require_whole(
    settings: object, least: Mapping[str, int | None], error: type[ValueError]
) -> None:
    """Raise ``error`` unless settings that count something are whole numbers, and large enough.

    ``least``: name -> the least it may be, None for any; a setting that is None counts nothing.

    >>> from types import SimpleNamespace
    >>> require_whole(SimpleNamespace(batch_size=2.5), {"batch_size": 1}, ValueError)
    Traceback (most recent call last):
    ValueError: batch_size=2.5; expected a whole number
    """
    for name, low in least.items():
        value = getattr(settings, name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise error(f"{name}={value!r}; expected a whole number")
        if low is not None and value < low:
            raise error(f"{name}={value}; expected at least {low}")
