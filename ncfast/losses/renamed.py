"""Old names and orders of arguments, which still work and say what to write instead."""

from __future__ import annotations

import functools
import numbers
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["classes_last", "renamed"]

P = ParamSpec("P")
R = TypeVar("R")


def renamed(
    name: str, old: dict[str, str], positional: int
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take old keywords too, and its last old positional argument.

    Args:
        name: The function's, for messages.
        old: Old keyword -> today's, of every argument that was once positional, in order.
        positional: How many of them still are.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if len(args) <= positional and not any(key in kwargs for key in old):
                return function(*args, **kwargs)
            names = tuple(old.values())
            if len(args) > len(names):
                raise TypeError(f"{name} takes {len(names)} positional arguments; got {len(args)}")
            given = dict(zip(names[positional:], args[positional:], strict=False))
            said = [f"{n} by position" for n in given]
            for key, new in old.items():
                if key in kwargs and key != new:
                    given[new] = kwargs.pop(key)
                    said.append(f"{key}=")
            doubled = [n for n in given if n in kwargs or n in names[: len(args[:positional])]]
            if doubled:
                raise TypeError(f"{name}: {doubled[0]} is given twice")
            if said:
                pairs = ", ".join(f"{key} -> {new}" for key, new in old.items() if key != new)
                warnings.warn(
                    f"{name}: {' and '.join(said)} is deprecated; the arguments are keywords "
                    f"called as in torch.nn.functional now: {pairs}",
                    DeprecationWarning,
                    stacklevel=2,
                )
            return function(*args[:positional], **kwargs, **given)  # type: ignore[arg-type]

        return call

    return decorate


def classes_last(init: Callable[P, R]) -> Callable[P, R]:
    """Let a constructor (num_classes, dim, classes) be called in the old order, classes first."""

    @functools.wraps(init)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        first = args[1] if len(args) > 1 else 0
        if isinstance(first, numbers.Integral) and not isinstance(first, bool):
            return init(*args, **kwargs)
        name = type(args[0]).__name__
        order = ("classes", "num_classes", "dim")
        if len(args) > 4 or any(key in kwargs for key in order[: len(args) - 1]):
            raise TypeError(f"{name} takes (num_classes, dim, classes=None) and keywords")
        warnings.warn(
            f"{name}(classes, num_classes, dim) is deprecated: the order is (num_classes, dim, "
            "classes) everywhere in ncfast now",
            DeprecationWarning,
            stacklevel=2,
        )
        given = dict(zip(order, args[1:], strict=False))
        return init(args[0], **given, **kwargs)  # type: ignore[arg-type]

    return call
