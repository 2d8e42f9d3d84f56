"""Metrics that are algebra on Gram matrices of width D."""

from __future__ import annotations

import math

from torch import Tensor

from ..geometry import cosine_moments, simplex_error, spectrum, within_over_between
from .measured import EQUAL, FEW_PAIRS, NO_HEAD, Measured
from .report import Values
from .selection import within_scatter

__all__ = ["algebra"]

NO_SCATTER = (
    "needs Sigma_W of exactly these classes: give ClassStatistics scatter={name: ids} "
    "before the pass"
)


def algebra(out: Values, m: Measured) -> None:
    """Add what Gram matrices of width D give."""
    means = m.means
    gram = means.gram()
    equal = EQUAL if float(gram.trace()) == 0 else ""
    mean, std = cosine_moments(means)
    out.put("interference_mean", mean, m.few or equal)
    out.put("interference_std", std, m.few or equal or (FEW_PAIRS if m.count < 3 else ""))
    out.put("etf_error", simplex_error(means, means, gram, gram), m.few or equal)
    _inverse(out, m, gram, m.few or equal)
    head = m.head
    if head is None:
        out.put("self_duality_error", math.nan, NO_HEAD)
        return
    error = simplex_error(head, means, head.gram(), gram)
    zero = "every product of a head row and a class mean is zero" if math.isnan(error) else ""
    out.put("self_duality_error", error, m.few or equal or zero)


def _inverse(out: Values, m: Measured, gram: Tensor, undefined: str) -> None:
    scatter = None if undefined else within_scatter(m.stats, m.slots)
    if scatter is None:
        for key in ("nc1_pinv", "nc1_svd"):
            out.put(key, math.nan, undefined or NO_SCATTER)
        return
    within = scatter / int(m.columns["counts"].sum())
    found = spectrum(m.means, gram)
    width, leading = m.stats.dim, min(m.count - 1, m.stats.dim)
    relation = ">" if m.count > width + 1 else "<="
    full = "full rank" if found.rank == width else "not of full rank"
    note = (
        f"Sigma_B has rank {found.rank} of {width}, {full}: K = {m.count} {relation} D + 1; "
        f"eigenvalues up to {found.share:.1e} of the largest count as zero"
    )
    out.put("nc1_pinv", within_over_between(found, within, m.count, found.rank), note=note)
    out.put("nc1_svd", within_over_between(found, within, m.count, leading), note=note)
