"""Right before fast: nobody is timed whose results on small inputs are wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from ..errors import BackendError
from ..testing import assert_matches
from .contract import Absent, Inputs, Prepare

__all__ = ["NO_SUCH_OP", "check"]

NO_SUCH_OP = "has no such op of its own"

Tables = Mapping[str, Mapping[str, Prepare]]


def _results(tables: Tables, provider: str, op: str, inputs: Inputs) -> dict[str, Tensor]:
    """Return what a provider makes of the inputs, floats widened to float64."""
    if op not in tables[provider]:
        raise Absent(NO_SUCH_OP)
    try:
        prepared = tables[provider][op](inputs)
        found = prepared.results(prepared.call())
    except BackendError as error:
        raise Absent(str(error)) from None
    if not found:
        raise AssertionError(f"{provider} names no results of {op}")
    return {k: v.detach().double() if v.is_floating_point() else v for k, v in found.items()}


def check(
    provider: str,
    op: str,
    tables: Tables,
    small: Callable[[bool], Inputs],
    oracles: Sequence[str],
) -> None:
    """Hold every result of a provider against another provider, by the two-reference rule.

    The truth is the oracle's result in float64; the baseline its result in the inputs' dtype.
    ``small`` makes small inputs, in float64 where True is given. The oracle is the first of
    ``oracles`` that has a result and is not the provider itself; where there is none, the provider
    is Absent.
    """
    open_results = _results(tables, provider, op, small(False))
    for oracle in oracles:
        if oracle == provider or not open_results:
            continue
        try:
            truth = _results(tables, oracle, op, small(True))
            baseline = _results(tables, oracle, op, small(False))
        except Absent:
            continue
        for name in sorted(open_results.keys() & truth.keys()):
            out = open_results.pop(name)
            assert_matches(out, truth[name], baseline[name], name=f"{name} of {provider}")
    if open_results:
        raise Absent(f"cannot be checked: nobody else gives {', '.join(sorted(open_results))}")
