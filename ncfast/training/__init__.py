"""Training with neural-collapse terms: a plain loop whose memory and curve can be predicted."""

from ..ranks import Ranks
from .batches import TrainingBatch, TrainingBatches
from .loop import LoopSettings, Training, TrainingInterrupted
from .objective import Objective, StepResult
from .optimisers import learning_rate, make_optimizer
from .own_loss import OwnLoss
from .recompute import recomputable_layers, set_recompute
from .wrapped import inside_forward

__all__ = [
    "LoopSettings",
    "Objective",
    "OwnLoss",
    "Ranks",
    "StepResult",
    "Training",
    "TrainingBatch",
    "TrainingBatches",
    "TrainingInterrupted",
    "inside_forward",
    "learning_rate",
    "make_optimizer",
    "recomputable_layers",
    "set_recompute",
]
