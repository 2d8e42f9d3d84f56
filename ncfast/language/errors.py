"""The one error type of the language wing, and how it reports a missing extra."""

from __future__ import annotations

import importlib
from types import ModuleType

# What is left to whoever has a model of another kind.
ROAD = (
    "export features and labels to files and measure them with "
    "ncfast.integrations.numpy.statistics_of_files"
)


class LanguageError(ValueError):
    """Say what went wrong with a model, text, word set or package: given what, expected what."""


def import_extra(module: str, purpose: str) -> ModuleType:
    """Import a library of the ``lm`` extra at the moment it is needed.

    Args:
        module: name to import, for example ``"transformers"``.
        purpose: what the caller wants it for, in words; it becomes part of the error.

    Returns:
        The imported module.

    Raises:
        LanguageError: the library is not installed; the message names the extra.

    Example:
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
