"""Neural-collapse metrics and regularisers for language models at full-vocabulary scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import functional, losses, native
from .agreement import NearestCenterAgreement
from .device_errors import check_device_errors
from .dispatch import explain, trace, use_backend
from .errors import BackendError, DataError, RankError
from .metrics import NCReport, neural_collapse
from .shards import VocabularyShard
from .statistics import ClassStatistics

if TYPE_CHECKING:
    from .training.apply import apply_to, restore

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "ClassStatistics",
    "DataError",
    "NCReport",
    "NearestCenterAgreement",
    "RankError",
    "VocabularyShard",
    "__version__",
    "apply_to",
    "check_device_errors",
    "explain",
    "functional",
    "losses",
    "native",
    "neural_collapse",
    "restore",
    "trace",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    """Import what needs transformers only when it is asked for."""
    if name in ("apply_to", "restore"):
        from .training import apply

        return getattr(apply, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
