"""Models and texts out of package wheels, which are read as zip files and never installed."""

from __future__ import annotations

from .packaged import PackagedFiles, is_packaged, resolve

__all__ = ["PackagedFiles", "is_packaged", "resolve"]
