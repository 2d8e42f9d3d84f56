"""Metrics that are functions of pairs: of class means, and of head rows (the calibrated ones)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .known_points import Known
from .measured import EQUAL, FEW_PAIRS, NO_HEAD, ROUNDED, Measured
from .pairs import COSINE_RANGE, LOG_DISTANCE_RANGE, Pairs, Plan, Term, TermValue
from .report import Values
from .split_head import SPLIT

NEAR = 10.0  # pairs less than this times their rounding apart are near

__all__ = ["pairs_of_means", "pairs_of_rows", "twins"]


def pairs_of_means(out: Values, m: Measured, plan: Plan) -> dict[str, Any]:
    """Add what pairs of class means give; return the histograms."""
    log_term = Term("log_distance", limits=LOG_DISTANCE_RANGE)
    terms = [
        Term("cdnv", 1),
        Term("cdnv", 2),
        Term("cosine", target=-1 / max(m.count - 1, 1), limits=COSINE_RANGE),
        Term("log_distance_raw"),  # its greatest value is the distance of the nearest pair
    ]
    centred = m.conventions.log_distance_centered
    values: list[TermValue | None] = [None] * 5
    if not m.few:
        known = Known(m.rounding.reach, m.rounding.center)
        pairs = Pairs(m.stats.means, m.slots, class_variances(m), m.center, known)
        values = [*pairs.go_through([*terms, log_term] if centred else terms, plan)]
        if not centred:
            bare = Pairs(m.stats.means, m.slots, pairs.variances, None, Known(known.reach))
            values += bare.go_through([log_term], plan)
    once, twice, cosine, raw, log = values
    first = once if m.conventions.cdnv_power == 1 else twice
    rounded = m.few or (ROUNDED if m.equal == ROUNDED else "")
    left_out = float(once.coincident) if once is not None else math.nan
    out.put("pairs_left_out", left_out, m.few)
    near = nearest(m, raw)
    put_pairs(out, first, rounded, EQUAL, near, mean="cdnv_mean", std="cdnv_std")
    put_pairs(out, twice, rounded, EQUAL, near, mean="cdnv2_mean", std="cdnv2_std")
    said = m.directionless
    put_pairs(out, cosine, m.few or m.equal, EQUAL, said, deviation="equiangularity")
    alike = "all class means have one direction"
    names = {"mean": "log_distance_mean", "std": "log_distance_std"}
    put_pairs(out, log, rounded if centred else m.few, alike, said if centred else "", **names)
    found = {"pair_log_distance": log, "pair_cosine": cosine}
    return {name: v.histogram for name, v in found.items() if v is not None and v.histogram}


def pairs_of_rows(out: Values, m: Measured, plan: Plan) -> None:
    """Add what pairs of head rows give: the calibrated metrics."""
    undefined = m.few if m.head_weight is not None else SPLIT if m.split_head else NO_HEAD
    values: list[TermValue | None] = [None] * 4
    if m.head_weight is not None and not undefined:
        ids = m.columns["class_ids"]
        variances = torch.zeros(m.stats.num_classes, dtype=torch.float64, device=ids.device)
        variances[ids] = m.columns["variances"]
        terms = [Term("cdnv", 1), Term("cdnv", 2), Term("log_distance_raw"), Term("log_distance")]
        values = [
            *Pairs(m.head_weight, ids, variances, None).go_through(terms, replace(plan, bins=0))
        ]
    keys = ("nc1w_mean", "nc1w2_mean", "gnc2w_mean", "gnc2w_unit_mean")
    for key, value in zip(keys, values, strict=True):
        put_pairs(out, value, undefined, "all head rows coincide", mean=key)


def nearest(m: Measured, raw: TermValue | None) -> str:
    """Say that the nearest class means left are not much further apart than their errors, if so."""
    if raw is None or not raw.pairs:
        return ""
    room = 2 * float(m.rounding.reach.max())
    apart = math.exp(-raw.greatest)
    if apart > NEAR * room:
        return ""
    return (
        f"the nearest class means that count are {apart:.1e} apart, and rounding explains up to "
        f"{room:.1e}: such pairs may decide this value"
    )


def twins(pairs: float) -> str:
    """Say of how many pairs of means it is open which is nearer to a token."""
    if not pairs > 0:
        return ""
    return (
        f"{pairs:.0f} pairs of class means are equal up to rounding: which is nearer says nothing"
    )


def class_variances(m: Measured) -> Tensor:
    """Return [slots] float64, zero for classes that did not occur."""
    return m.stats.m2 / m.stats.counts.clamp(min=1)


def put_pairs(
    out: Values, value: TermValue | None, undefined: str, equal: str, said: str = "", **keys: str
) -> None:
    """Add the mean, std or deviation of a term under the keys given for them."""
    for part, key in keys.items():
        if value is None or undefined:
            out.put(key, math.nan, undefined)
            continue
        lacking = equal if not value.pairs else ""
        if part == "std" and not lacking and value.pairs < 2:
            lacking = FEW_PAIRS
        same = f"{value.coincident} coincident pairs are left out" if value.coincident else ""
        if value.rounded:
            same += f" ({value.rounded} differ by no more than their rounding)"
        out.put(key, getattr(value, part), lacking, "; ".join(filter(None, (same, said))))
        if part in value.estimates and not lacking:
            out.put_estimate(key, value.estimates[part])
