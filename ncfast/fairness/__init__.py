"""Fairness benchmarks of masked and causal language models, with intervals."""

from .benchmarks import BENCHMARKS
from .errors import EvaluationError
from .evaluate import evaluate
from .evaluation import Evaluation
from .predictions import score_predictions
from .schema import evaluation_schema
from .settings import Settings
from .writing import write_evaluation

__all__ = [
    "BENCHMARKS",
    "Evaluation",
    "EvaluationError",
    "Settings",
    "evaluate",
    "evaluation_schema",
    "score_predictions",
    "write_evaluation",
]
