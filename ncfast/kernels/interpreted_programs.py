"""Watches the programs of an interpreted launch: which bytes they share, in which order they run.

On a GPU programs run side by side and nothing orders them. Two that touch a byte, one of them
storing it, are a race, whatever the interpreter computes; atomic updates race with stores alone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from triton.runtime import interpreter

__all__ = ["ProgramRace", "watched"]

_builder = interpreter.InterpreterBuilder


class ProgramRace(AssertionError):
    """Two programs of a launch touch a byte that one of them stores."""


class _Launch:
    """Hold the addresses that each program of the launch that runs has touched."""

    def __init__(self, order: str) -> None:
        self.order, self.program = order, 0
        self.places = np.zeros(0, np.int64)
        self.touched: dict[str, list[tuple[np.ndarray, int]]] = {}

    def begin(self, count: int) -> None:
        self.touched = {"load": [], "store": [], "update": []}
        self.places = np.arange(count)
        if self.order == "reverse":
            self.places = self.places[::-1]
        elif self.order == "shuffled":
            self.places = np.random.default_rng(count).permutation(count)

    def note(self, kind: str, pointers: Any, mask: Any) -> None:
        size = max(pointers.get_element_ty().primitive_bitwidth // 8, 1)
        kept = np.asarray(pointers.data)
        if mask is not None:
            kept = kept[np.broadcast_to(mask.data, kept.shape)]
        first = np.unique(kept.reshape(-1).astype(np.int64))
        self.touched[kind].append(((first[:, None] + np.arange(size)).reshape(-1), self.program))

    def bytes_of(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Return addresses and programs, sorted by address, then program."""
        found = self.touched[kind]
        if not found:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        at = np.concatenate([addresses for addresses, _ in found])
        by = np.concatenate([np.full(len(addresses), program) for addresses, program in found])
        order = np.lexsort((by, at))
        return at[order], by[order]

    def check(self, kernel: str) -> None:
        stored, by = self.bytes_of("store")
        if not len(stored):
            return
        twice = np.flatnonzero((stored[1:] == stored[:-1]) & (by[1:] != by[:-1]))
        if len(twice):
            self.fail(kernel, stored[twice[0]], by[twice[0]], "stores", by[twice[0] + 1])
        for kind in ("load", "update"):
            at, other = self.bytes_of(kind)
            place = np.minimum(np.searchsorted(stored, at), len(stored) - 1)
            bad = np.flatnonzero((stored[place] == at) & (by[place] != other))
            if len(bad):
                self.fail(kernel, at[bad[0]], by[place[bad[0]]], f"{kind}s", other[bad[0]])

    def fail(self, kernel: str, address: int, one: int, verb: str, other: int) -> None:
        raise ProgramRace(
            f"race in {kernel}: byte {address:#x} is stored by program {one}, and program {other} "
            f"{verb} it; nothing orders two programs of a launch"
        )


_watch: _Launch | None = None


def _noting(original: Any, kind: str, mask_at: int) -> Any:
    @functools.wraps(original)
    def operation(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _watch is not None:
            # Pointers come first, but for atomic_rmw, whose operation does.
            pointers = args[1] if original.__name__ == "create_atomic_rmw" else args[0]
            mask = args[mask_at] if mask_at else None
            _watch.note(kind, pointers, mask)
        return original(self, *args, **kwargs)

    return operation


def _dimensions(original: Any) -> Any:
    def set_grid_dim(self: Any, x: int, y: int, z: int) -> None:
        original(self, x, y, z)
        if _watch is not None:
            _watch.begin(x * y * z)

    return set_grid_dim


def _program(original: Any) -> Any:
    def set_grid_idx(self: Any, x: int, y: int, z: int) -> None:
        if _watch is not None:
            _, height, depth = self.grid_dim
            place = int(_watch.places[(x * height + y) * depth + z])
            _watch.program = place
            x, y, z = place // depth // height, place // depth % height, place % depth
        original(self, x, y, z)

    return set_grid_idx


def _checked(original: Any) -> Any:
    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if _watch is not None:
            _watch.check(self.fn.__name__)
        return result

    return call


@functools.lru_cache(maxsize=1)
def _install() -> None:
    _builder.create_masked_load = _noting(_builder.create_masked_load, "load", 1)
    _builder.create_masked_store = _noting(_builder.create_masked_store, "store", 2)
    _builder.create_atomic_rmw = _noting(_builder.create_atomic_rmw, "update", 3)
    _builder.create_atomic_cas = _noting(_builder.create_atomic_cas, "update", 0)
    _builder.set_grid_dim = _dimensions(_builder.set_grid_dim)
    _builder.set_grid_idx = _program(_builder.set_grid_idx)
    interpreter.GridExecutor.__call__ = _checked(interpreter.GridExecutor.__call__)


@contextmanager
def watched(order: str = "forward") -> Iterator[None]:
    """Raise :class:`ProgramRace` for a race in a launch inside; run programs in an order.

    Args:
        order: ``"forward"``, ``"reverse"`` or ``"shuffled"``.

    >>> with watched("reverse"):
    ...     pass
    """
    global _watch
    if order not in ("forward", "reverse", "shuffled"):
        raise ValueError(f"watched: order is {order!r}; expected forward, reverse or shuffled")
    _install()
    before, _watch = _watch, _Launch(order)
    try:
        yield
    finally:
        _watch = before
