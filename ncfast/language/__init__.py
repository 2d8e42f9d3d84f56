"""Text and models: what goes into a measurement, before any metric is named."""

from ..wheels import PackagedFiles, resolve
from .controls import (
    ControlSpec,
    DrawnWords,
    frequency_matched,
    parse_controls,
    random_controls,
    whole_words,
)
from .corpus import Batch, Corpus
from .errors import LanguageError
from .labels import LabelledBatch, Labeller
from .models import LanguageModel
from .words import WordClasses, WordSet

__all__ = [
    "Batch",
    "ControlSpec",
    "Corpus",
    "DrawnWords",
    "LabelledBatch",
    "Labeller",
    "LanguageError",
    "LanguageModel",
    "PackagedFiles",
    "WordClasses",
    "WordSet",
    "frequency_matched",
    "parse_controls",
    "random_controls",
    "resolve",
    "whole_words",
]
