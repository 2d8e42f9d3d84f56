"""Errors that ncfast raises on purpose."""

from __future__ import annotations

__all__ = ["BackendError", "DataError", "LanguageError", "RankError"]


class DataError(ValueError):
    """Tell that values (labels, features, an index, a file) cannot be used, and where they are."""


class LanguageError(ValueError):
    """Say what is wrong with a model, text, word set or package: what was given and expected."""


class BackendError(RuntimeError):
    """Tell that the requested backend cannot serve a call, and why."""


class RankError(RuntimeError):
    """Tell that ranks did not meet: one died, did not come in time, or made another call."""
