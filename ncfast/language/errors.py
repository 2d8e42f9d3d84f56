"""How a missing extra is reported, and the way out for models of other kinds."""

from __future__ import annotations

import importlib
from types import ModuleType

from ..errors import LanguageError

__all__ = ["ROAD", "LanguageError", "import_extra"]

# What is left to whoever has a model of another kind.
ROAD = (
    "export features and labels to files and measure them with "
    "ncfast.integrations.numpy.statistics_of_files"
)


def import_extra(module: str, purpose: str) -> ModuleType:
    """Import a library of the ``lm`` extra when it is needed; errors say the ``purpose``.

    >>> import_extra("json", "reading settings").__name__
    'json'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise LanguageError(
            f"{purpose} needs the library {module!r}, which cannot be imported here ({error}); "
            "install it with: pip install 'ncfast[lm]'"
        ) from error
