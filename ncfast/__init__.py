"""Neural-collapse metrics and regularisers for language models at full-vocabulary scale."""

from __future__ import annotations

from . import functional, native
from .dispatch import explain, trace, use_backend
from .errors import BackendError, DataError

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "DataError",
    "__version__",
    "explain",
    "functional",
    "native",
    "trace",
    "use_backend",
]
