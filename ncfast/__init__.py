"""Neural-collapse metrics and regularisers for language models at full-vocabulary scale."""

from __future__ import annotations

from . import functional, losses, native
from .agreement import NearestCenterAgreement
from .device_errors import check_device_errors
from .dispatch import explain, trace, use_backend
from .errors import BackendError, DataError
from .metrics import NCReport, neural_collapse
from .statistics import ClassStatistics

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "ClassStatistics",
    "DataError",
    "NCReport",
    "NearestCenterAgreement",
    "__version__",
    "check_device_errors",
    "explain",
    "functional",
    "losses",
    "native",
    "neural_collapse",
    "trace",
    "use_backend",
]
