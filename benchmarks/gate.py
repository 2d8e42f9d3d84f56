"""Right before fast: no provider is timed whose results on small inputs are wrong."""

from __future__ import annotations

from torch import Tensor

import ncfast
from ncfast.testing import assert_matches

from .cases import Case
from .contract import Absent
from .providers import prepare

__all__ = ["check"]

# A result is judged by the first of these that has it and is not the provider itself.
_JUDGES = ("torch", "reference", "predecessor", "cpu", "masked_lm_step")


def _results(provider: str, case: Case, exact: bool = False) -> dict[str, Tensor]:
    """Return what a provider makes of the small inputs, floats widened to float64."""
    prepared = prepare(provider, case.name, case.small_inputs(exact))
    try:
        found = prepared.results(prepared.call())
    except ncfast.BackendError as error:
        raise Absent(str(error)) from None
    if not found:
        raise AssertionError(f"{provider} names no results of {case.name}")
    return {k: v.detach().double() if v.is_floating_point() else v for k, v in found.items()}


def check(provider: str, case: Case) -> None:
    """Hold every result of a provider against another provider, by the two-reference rule.

    The truth is the judge's result in float64; the baseline is its result in the case's dtype.

    Raises:
        Absent: The provider cannot do this op, or nobody else can judge it.
        AssertionError: A result is wrong; says which and by how much.
    """
    if provider in case.left_out:
        raise Absent("is left out: it would take too long at this size")
    open_results = _results(provider, case)
    for judge in _JUDGES:
        if judge == provider or not open_results:
            continue
        try:
            truth, baseline = _results(judge, case, exact=True), _results(judge, case)
        except Absent:
            continue
        for name in sorted(open_results.keys() & truth.keys()):
            out = open_results.pop(name)
            assert_matches(out, truth[name], baseline[name], name=f"{name} of {provider}")
    if open_results:
        raise Absent(f"cannot be judged: nobody else gives {', '.join(sorted(open_results))}")
