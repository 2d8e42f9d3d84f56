"""Metrics that are sums over classes: traces, norms, duality, orthogonality."""

from __future__ import annotations

import math

from torch import Tensor

from ..geometry import unit_rows
from .measured import NO_CLASS, NO_HEAD, Measured
from .report import Values, dispersion

__all__ = ["duality", "norms", "orthogonality", "variability"]


def variability(out: Values, m: Measured) -> None:
    """Add the traces of Sigma_W and Sigma_B and their quotient."""
    lengths, tokens = m.columns["norms"], int(m.columns["counts"].sum())
    none = "" if m.count else NO_CLASS
    within = float(m.stats.m2[m.slots].sum()) / max(tokens, 1)
    between = float(lengths.square().mean()) if m.count else math.nan
    out.put("trace_within", within, none)
    out.put("trace_between", between, none)
    out.put("nc1_quotient", within / between if between else math.nan, m.few or m.equal)


def norms(out: Values, m: Measured) -> None:
    """Add what the distances of class means from the center say, in the preset's convention."""
    lengths = m.columns["norms"]
    zero = "a class mean equals the center" if bool(m.at_center.any()) else ""
    if zero and bool((lengths > 0).all()):
        zero += " up to rounding"
    out.put("means_at_center", float(m.at_center.sum()), "" if m.count else NO_CLASS)
    logs = lengths.log()
    chosen = m.conventions.norms
    of = {"plain": lengths, "squared": lengths.square(), "log": logs}[chosen]
    mean, _, cov = dispersion(of)
    undefined = zero if chosen == "log" else ""
    out.put("norm_mean", mean, NO_CLASS if not m.count else undefined)
    out.put("norm_cov", cov, m.few or undefined or m.equal)
    out.put("log_norm_std", dispersion(logs)[1], m.few or zero or m.equal)


def duality(out: Values, m: Measured) -> None:
    """Add what the cosines of head rows and class means say."""
    cosines = m.columns.get("cosines")
    keys = ("nc3_mean", "nc3_distance", "unc3_std", "unc3_var", "unc3_cov")
    if cosines is None or not m.count:
        for key in keys:
            out.put(key, math.nan, NO_HEAD if cosines is None else NO_CLASS)
        return
    mean, std, cov = dispersion(cosines)
    none = int((m.columns["head_norms"] == 0).sum())
    zero = f"{none} head rows are zero: their cosine counts as 0" if none else ""
    note = "; ".join(filter(None, (m.directionless, zero)))
    out.put("nc3_mean", mean, note=note)
    out.put("nc3_distance", float((2 - 2 * cosines).clamp(min=0).sqrt().mean()), note=note)
    out.put("unc3_std", std, m.few, note)
    out.put("unc3_var", std**2, m.few, note)
    out.put("unc3_cov", cov, m.few or ("the mean cosine is zero" if mean == 0 else ""), note)


def orthogonality(out: Values, m: Measured, ood_mean: Tensor) -> None:
    """Add the mean |cosine| of class means and the mean of out-of-distribution features."""
    if tuple(ood_mean.shape) != (m.stats.dim,) or ood_mean.device != m.stats.device:
        raise ValueError(
            f"neural_collapse: ood_mean is {tuple(ood_mean.shape)} on {ood_mean.device}; "
            f"expected ({m.stats.dim},) on {m.stats.device}"
        )
    direction = ood_mean.detach().double()
    length = float(direction.norm())
    total = 0.0
    for part in m.means.parts():
        total += float((unit_rows(part) @ direction).abs().sum())
    zero = "ood_mean is zero" if length == 0 else ""
    value = total / (length * m.count) if length and m.count else math.nan
    out.put("nc5_mean", value, zero if m.count else NO_CLASS, m.directionless)
