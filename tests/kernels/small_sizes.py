"""Makes what cuts the work of Triton kernels small, and counts how often their loops go round.

Sizes that suit a GPU put a test's few rows into one tile: no loop would go round twice.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import triton.language as tl

import ncfast.kernels
from ncfast.kernels import launching

# By module: sizes that are no tile of a configuration. Chunks are of two tiles and a half, so that
# every loop over one has a ragged end.
SIZES: dict[str, dict[str, int]] = {
    "tiles": {"BAND": 3, "LEAST_SPLITS": 3, "PROGRAMS": 3},
    "decisions": {"BAND": 3},
    "linear_cross_entropy": {"BAND": 3},
    "grams": {"CHUNK": 10, "PROGRAMS": 9},
    "labels": {"PIECE": 10},
    "segments": {"PIECE": 10},
    "pair_stats": {"PROGRAMS": 2, "GROUP": 1, "SPAN": 8, "NEAR_DEPTH": 4},
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
    "alignment.FORWARD": {"ROWS": 8, "COLUMNS": 8},  # an eighth of its columns is a tile too
    "alignment.BACKWARD": {"ROWS": 8, "COLUMNS": 8},
    "cross_entropy_gradients.NARROW": {"ROWS": 16},
    "cross_entropy_gradients.WIDE": {"ROWS": 16},
}
# What is no size: marks, limits of values, layouts that others know.
NO_SIZES = {
    *("NOWHERE", "NOBODY", "IGNORE_INDEX", "LEAST_SQUARE", "MOST_SQUARE", "NEAR", "CENTER"),
    *("PARTS", "CLASS_TILE"),
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


class Rounds:
    """Hold how often the loops of kernels went round at most, and which had a ragged end."""

    def __init__(self) -> None:
        self.most: dict[tuple[str, int], int] = {}
        self.ragged: set[tuple[str, int]] = set()

    def count(self, *limits: Any) -> Iterator[int]:
        """Stand in for ``range``."""
        steps = range(*(int(limit) for limit in limits))
        frame = sys._getframe(1)
        place = short(sys.modules[frame.f_globals["__name__"]]), frame.f_lineno
        self.most[place] = max(self.most.get(place, 0), len(steps))
        if len(steps) > 1 and (steps.stop - steps.start) % steps.step:
            self.ragged.add(place)
        return iter(steps)


def loops() -> dict[tuple[str, int], str]:
    """Return the loops of kernels and of what launches them: module and line, and what they say."""
    found = {}
    for module in modules():
        with open(str(module.__file__), encoding="utf-8") as file:
            text = file.read()
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.For) or not isinstance(node.iter, ast.Call):
                continue
            if getattr(node.iter.func, "id", "") == "range":
                found[short(module), node.lineno] = ast.unparse(node.iter)
    return found
