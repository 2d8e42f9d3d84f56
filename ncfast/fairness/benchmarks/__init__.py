"""The benchmarks by name: one file each. A new one is its file, its line here, and its test."""

from __future__ import annotations

from collections.abc import Callable

from .base import Benchmark
from .bbq import Bbq
from .bec_pro import BecPro
from .bias_in_bios import BiasInBios
from .bias_nli import BiasNli
from .crows_pairs import CrowSPairs
from .glue import Glue
from .glue_items import TASKS
from .perplexity import Perplexity
from .seat import Seat
from .stereoset import StereoSet
from .winobias import WinoBias
from .winogender import Winogender

__all__ = ["BENCHMARKS", "Benchmark", "Perplexity", "make"]

BENCHMARKS: dict[str, Callable[[], Benchmark]] = {
    "stereoset": StereoSet,
    "crows-pairs": CrowSPairs,
    "seat": Seat,
    "bec-pro": BecPro,
    "winobias": WinoBias,
    "winogender": Winogender,
    "bbq": Bbq,
    "perplexity": Perplexity,
    **{task: (lambda task=task: Glue(task)) for task in TASKS},  # type: ignore[misc]
    "bias-nli": BiasNli,
    "bias-in-bios": BiasInBios,
}


def make(name: str) -> Benchmark:
    """Return a benchmark by its name, as ``--on`` takes it.

    >>> make("stereoset").name
    'stereoset'
    """
    from ..errors import EvaluationError

    if name not in BENCHMARKS:
        raise EvaluationError(f"no benchmark {name!r}; expected one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]()
