"""The training job: a model and a text in, a fine-tuned model and a before/after report out."""

from __future__ import annotations

from .job import FinetuneResult, finetune
from .report import render
from .settings import FinetuneSettings
from .terms import TermSettings

__all__ = ["FinetuneResult", "FinetuneSettings", "TermSettings", "finetune", "render"]
