"""Metrics that are algebra on Gram matrices of width D."""

from __future__ import annotations

import math

from torch import Tensor

from ..catalogue import keys_that_need
from ..geometry import cosine_moments, simplex_error
from ..spectrum import Spectrum, spectrum, within_over_between
from .measured import FEW_PAIRS, NO_HEAD, Measured
from .report import Values
from .selection import within_scatter

__all__ = ["algebra"]

NEAR = 10.0  # an eigenvalue less than this times its cut-off, or more than a tenth of it, is near
ALL_ROUNDING = "the class means differ by no more than their rounding explains"

NO_SCATTER = (
    "needs Sigma_W of exactly these classes: give ClassStatistics scatter={name: ids} "
    "before the pass"
)


def algebra(out: Values, m: Measured) -> None:
    """Add what Gram matrices of width D give."""
    means = m.means
    gram = means.gram()
    equal = m.equal
    mean, std = cosine_moments(means)
    out.put("interference_mean", mean, m.few or equal, m.directionless)
    few = FEW_PAIRS if m.count < 3 else ""
    out.put("interference_std", std, m.few or equal or few, m.directionless)
    out.put("etf_error", simplex_error(means, means, gram, gram), m.few or equal)
    _inverse(out, m, gram, m.few or equal)
    head = m.head
    if m.split_head is not None:
        error = m.split_head.duality_error(means, gram)
    elif head is not None:
        error = simplex_error(head, means, head.gram(), gram)
    else:
        out.put("self_duality_error", math.nan, NO_HEAD)
        return
    zero = "every product of a head row and a class mean is zero" if math.isnan(error) else ""
    out.put("self_duality_error", error, m.few or equal or zero)


def _inverse(out: Values, m: Measured, gram: Tensor, undefined: str) -> None:
    scatter = None if undefined else within_scatter(m.stats, m.slots)
    if scatter is None:
        for key in keys_that_need("scatter"):
            out.put(key, math.nan, undefined or NO_SCATTER)
        return
    within = scatter / int(m.columns["counts"].sum())
    found = spectrum(m.means, gram, m.rounding.along)
    none = "" if found.rank else ALL_ROUNDING
    note = _rank(found, m)
    leading = min(m.count - 1, m.stats.dim)
    for key, directions in (("nc1_pinv", found.rank), ("nc1_svd", leading)):
        value = within_over_between(found, within, m.count, directions, m.rounding.unit)
        out.put(key, value, none, note)
    out.put("rank_between", float(found.rank))
    out.put("rank_dropped", float(m.stats.dim - found.rank))
    out.put("rank_kept_margin", found.kept, none)
    out.put("rank_dropped_margin", found.dropped)


def _rank(found: Spectrum, m: Measured) -> str:
    """Say the rank of Sigma_B, and how clearly it is decided."""
    width = m.stats.dim
    full = "full rank" if found.rank == width else "not of full rank"
    relation = ">" if m.count > width + 1 else "<="
    said = f"Sigma_B has rank {found.rank} of {width}, {full}: K = {m.count} {relation} D + 1; "
    said += f"the least eigenvalue kept is {found.kept:.1e} times what rounding explains"
    if found.rank < width:
        said += f", the largest left out {found.dropped:.1e} times"
    if found.kept < NEAR or found.dropped > 1 / NEAR:
        said += "; near the cut-off, so the value depends on where it lies"
    return said
