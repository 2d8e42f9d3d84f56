"""Right before fast: no provider is timed whose results on small inputs are wrong."""

from __future__ import annotations

from ncfast.bench import gate
from ncfast.bench.contract import Absent

from .cases import Case
from .providers import PROVIDERS

__all__ = ["check"]

_ORACLES = ("torch", "reference", "predecessor", "cpu", "masked_lm_step")


def check(provider: str, case: Case) -> None:
    """Hold every result of a provider against another provider's, where it can do the op at all."""
    if provider in case.left_out:
        raise Absent("is left out: it would take too long at this size")
    gate.check(provider, case.name, PROVIDERS, case.small_inputs, _ORACLES)
