"""Makes what cuts the work of Triton kernels small, and counts how often their loops go round.

Sizes that suit a GPU put a test's few rows into one tile: no loop would go round twice.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import triton.language as tl

import ncfast.kernels
from ncfast.kernels import launching

# By module: sizes that are no tile of a configuration. Chunks are of two tiles and a half, so that
# every loop over one has a ragged end.
SIZES: dict[str, dict[str, int]] = {
    "tiles": {"BAND": 3, "MIN_SPLITS": 3, "PROGRAMS": 3},
    "decisions": {"BAND": 3},
    "linear_cross_entropy": {"BAND": 3},
    "grams": {"CHUNK": 10, "PROGRAMS": 9},
    "labels": {"SEGMENT": 10},
    "segments": {"SEGMENT": 10},
    "pair_stats": {"PROGRAMS": 2, "GROUP": 1, "NEAR_DEPTH": 4},
    "pair_histogram": {"SPAN": 8},
    "pair_weights": {"SIDE": 32},
    "pair_gradients": {"PANEL_ROWS": 32, "PANEL_COLUMNS": 32, "SIDE": 32},
    "cross_entropy_gradients": {"PANEL_TOKENS": 48, "PANEL_CLASSES": 18},
}
# Loops go over columns, depths and, where said, rows: other rows need not be as few. Pieces of a
# tile of pairs are told apart by 5 bits of a column's number.
TILES = {"ROWS": 32, "COLUMNS": 4, "DEPTH": 4, "SIDE": 32}
OTHERS: dict[str, dict[str, int]] = {
    "labels.CHECK": {"ROWS": 4},
    "segments.MOMENTS": {"ROWS": 4},
    "products.SUM": {"SPAN": 12, "ROWS": 4},
    "products.PRODUCT": {"COLUMNS": 16},
    "panels.PRODUCT": {"COLUMNS": 16},
    "class_moments.BACKWARD": {"COLUMNS": 16},
    "grams.GRAM": {"SIDE": 8},
    "grams.FOLD": {"SIDE": 8},
    # An eighth of its columns is a tile too, and one column is never a ragged end.
    "alignment.FORWARD": {"ROWS": 8, "COLUMNS": 16},
    "alignment.BACKWARD": {"ROWS": 8, "COLUMNS": 16},
    "cross_entropy_gradients.NARROW": {"ROWS": 16},
    "cross_entropy_gradients.WIDE": {"ROWS": 16},
}
# What is no size: marks, limits of values, layouts that others know, kinds of functions.
NO_SIZES = {
    *("NOWHERE", "NO_CLASS", "IGNORE_INDEX", "MIN_SQUARE", "MAX_SQUARE", "NEAR", "CENTER"),
    *("PARTS", "CLASS_TILE"),
    *("CDNV", "LOG_DISTANCE", "COSINE", "LOG_DISTANCE_RAW", "RIESZ", "ENERGY"),
    *("CODE_LOG_DISTANCE", "CODE_COSINE", "CODE_LOG_DISTANCE_RAW", "CODE_CDNV_SQUARED"),
}


def modules() -> list[ModuleType]:
    """Return the modules of kernels."""
    names = [module.name for module in pkgutil.iter_modules(ncfast.kernels.__path__)]
    return [importlib.import_module(f"ncfast.kernels.{name}") for name in names]


def short(module: ModuleType) -> str:
    """Return a module's name within its package."""
    return module.__name__.rpartition(".")[2]


def numbers(module: ModuleType) -> set[str]:
    """Return the names of a module's constants that are whole numbers."""
    found = {k: getattr(v, "value", v) for k, v in vars(module).items() if k.isupper()}
    return {k for k, v in found.items() if isinstance(v, int) and not k.startswith("_")}


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every size be small, and every tile the smallest, for one test."""
    for module in modules():
        for name, size in SIZES.get(short(module), {}).items():
            constant = isinstance(getattr(module, name), tl.constexpr)
            monkeypatch.setattr(module, name, tl.constexpr(size) if constant else size)
        for value in vars(module).values():
            _shrink(monkeypatch, value, TILES)
    for place, tiles in OTHERS.items():  # last: other modules import some of them
        module_name, _, name = place.partition(".")
        module = importlib.import_module(f"ncfast.kernels.{module_name}")
        _shrink(monkeypatch, getattr(module, name), tiles)


def _shrink(monkeypatch: pytest.MonkeyPatch, configurations: object, tiles: dict[str, int]) -> None:
    for configuration in configurations if isinstance(configurations, tuple) else ():
        if isinstance(configuration, launching.Configuration):
            for tile in configuration.tiles.keys() & tiles.keys():
                monkeypatch.setitem(configuration.tiles, tile, tiles[tile])


Place = tuple[str, int]  # a module within the package, and the line a loop begins at
WHOLE = {"range(0, SPAN, ROWS)"}  # a row's tile is whole: masks end it


class Loop(NamedTuple):
    """Hold what a loop says, and the line it ends on."""

    text: str
    last_line: int


class Rounds:
    """Hold how often loops went round at most, and which had a ragged end.

    Args:
        loops: what :func:`loops` found; none: rounds are counted, and nothing is expected.
    """

    def __init__(self, loops: dict[Place, Loop] | None = None) -> None:
        self.loops = loops or {}
        self.most: dict[Place, int] = {}
        self.ragged: set[Place] = set()
        self._rows = 0

    def count(self, *limits: Any) -> Iterator[int]:
        """Stand in for ``range``."""
        steps = range(*(int(limit) for limit in limits))
        frame = sys._getframe(1)
        place = frame.f_globals["__name__"].rpartition(".")[2], frame.f_lineno
        self.most[place] = max(self.most.get(place, 0), len(steps))
        if len(steps) > 1 and (steps.stop - steps.start) % steps.step:
            self.ragged.add(place)
        return iter(steps)

    def follow(self, next_row: Callable[..., Any]) -> Callable[..., Any]:
        """Stand in for ``next_row``, with which a ``while`` asks for its next round."""

        def asked(*args: Any) -> Any:
            frame = sys._getframe(1)
            module, line = frame.f_globals["__name__"].rpartition(".")[2], frame.f_lineno
            inside = [
                place
                for place, loop in self.loops.items()
                if place[0] == module and place[1] < line <= loop.last_line
            ]
            self._rows = self._rows + 1 if inside else 0
            for place in inside:
                self.most[place] = max(self.most.get(place, 0), self._rows)
            return next_row(*args)

        return asked

    def lacking(self) -> list[str]:
        """Say of which loops it was not seen that they go round three times and end raggedly.

        A loop without a step of its own counts what was cut elsewhere, and has no ragged end.
        """
        found = []
        for place, loop in self.loops.items():
            where, rounds = f"{place[0]}.py:{place[1]}: {loop.text}", self.most.get(place, 0)
            if rounds < 3:
                found.append(f"{where} went round {rounds} times; expected at least 3")
            if loop.text.count(",") == 2 and loop.text not in WHOLE and place not in self.ragged:
                found.append(f"{where} never had a ragged end")
        return found


def loops(files: Iterable[Path]) -> dict[Place, Loop]:
    """Return the loops of kernels and of what launches them.

    What ``tl.static_range`` unrolls has the rounds its text says: tiles do not change them.
    """
    found = {}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.While):
                text = ast.unparse(node.test)
            elif isinstance(node, ast.For) and ast.unparse(node.iter).startswith("range("):
                text = ast.unparse(node.iter)
            else:
                continue
            found[file.stem, node.lineno] = Loop(text, node.end_lineno or 0)
    return found
