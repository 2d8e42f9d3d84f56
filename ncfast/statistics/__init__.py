"""The streaming, mergeable, savable state that every metric is computed from."""

from __future__ import annotations

from .class_statistics import ClassStatistics
from .schema import configuration_schema

__all__ = ["ClassStatistics", "configuration_schema"]
