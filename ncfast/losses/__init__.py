"""Losses for training: cross-entropy without logits, and neural collapse as differentiable terms.

Every term is a module called as ``term(x, y, head_weight)`` on the head's input and the labels, and
returns a scalar already multiplied by its weight, to be added to the training loss.
"""

from __future__ import annotations

from .class_means import ClassMeans, ClassMoments
from .cross_entropy import (
    LinearCrossEntropyLoss,
    TokenSums,
    cross_entropy_sums,
    linear_cross_entropy,
)
from .duality import SPREADS, DualityRegularizer, PairWeights
from .labels import next_token_labels
from .regularizer import NoClassesWarning, Regularizer
from .schedule import LambdaSchedule
from .uniformity import UniformityRegularizer
from .within_class import WithinClassRegularizer

NC3Regularizer = DualityRegularizer  # by the field's name of what it regularises

__all__ = [
    "SPREADS",
    "ClassMeans",
    "ClassMoments",
    "DualityRegularizer",
    "LambdaSchedule",
    "LinearCrossEntropyLoss",
    "NC3Regularizer",
    "NoClassesWarning",
    "PairWeights",
    "Regularizer",
    "TokenSums",
    "UniformityRegularizer",
    "WithinClassRegularizer",
    "cross_entropy_sums",
    "linear_cross_entropy",
    "next_token_labels",
]
