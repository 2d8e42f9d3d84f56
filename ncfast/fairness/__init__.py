"""Fairness benchmarks of masked and causal language models, with intervals."""

from .benchmarks import BENCHMARKS
from .errors import EvaluationError
from .evaluate import Evaluation, Settings, evaluate
from .predictions import score_predictions
from .writing import write_evaluation

__all__ = [
    "BENCHMARKS",
    "Evaluation",
    "EvaluationError",
    "Settings",
    "evaluate",
    "score_predictions",
    "write_evaluation",
]
