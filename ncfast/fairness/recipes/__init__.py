"""Recipes for fairer language models: a data builder and an objective each, one small file each.

Every recipe works from ``ncfast finetune --recipe NAME`` and takes any regulariser on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .adept import Adept
from .ase import Ase
from .bec import Bec
from .dropout import Dropout
from .equalise import Equalise
from .leace import Leace
from .mabel import Mabel
from .plain import Plain
from .recipe import Piece, Recipe, RecipeError, Transform
from .rotate import Rotate
from .swap import Swapper

RECIPES: dict[str, type[Recipe]] = {
    recipe.name: recipe
    for recipe in (Plain, Bec, Equalise, Dropout, Ase, Adept, Mabel, Rotate, Leace)
}

__all__ = [
    "RECIPES",
    "Piece",
    "Recipe",
    "RecipeError",
    "Swapper",
    "Transform",
    "find_recipe",
]


def find_recipe(name: str, options: Mapping[str, Any] | None = None) -> Recipe:
    """Return a recipe of :data:`RECIPES` with its options; texts are read as the option's type.

    >>> find_recipe("bec", {"share": "1"}).share
    1.0
    """
    if name not in RECIPES:
        raise RecipeError(f"no recipe {name!r}; expected one of {', '.join(RECIPES)}")
    return RECIPES[name].with_options(options or {})
