"""What tests and benchmarks of ncfast share: a rule for comparing, poisoned memory, and samples."""

from __future__ import annotations

from .matching import assert_matches, rounding_floor
from .poisoning import poison
from .ranks import end_rank
from .samples import Sample, sample_inputs, tiny_tokens

__all__ = [
    "Sample",
    "assert_matches",
    "end_rank",
    "poison",
    "rounding_floor",
    "sample_inputs",
    "tiny_tokens",
]
