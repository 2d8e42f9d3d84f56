"""The main job: a language model and a text in, a neural-collapse report out, in one pass."""

from __future__ import annotations

from .job import MeasureResult, measure
from .one_pass import MeasureInterrupted
from .settings import MeasureSettings

__all__ = ["MeasureInterrupted", "MeasureResult", "MeasureSettings", "measure"]
