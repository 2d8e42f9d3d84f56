"""What can be wrong with a protocol or with what it asks for."""

from __future__ import annotations

from ..errors import DataError

__all__ = ["ExperimentError"]


class ExperimentError(DataError):
    """Say in one sentence which part of a protocol cannot be used, and what was expected."""
