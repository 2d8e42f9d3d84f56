"""Metrics that are functions of pairs: of class means, and of head rows (the calibrated ones)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..known_points import Known
from ..rounding import row_errors
from .measured import EQUAL, FEW_PAIRS, NO_HEAD, ROUNDED, Measured
from .pair_functions import COSINE_RANGE, LOG_DISTANCE_RANGE, PairFunction, PairSummary, Plan
from .pairs import Pairs
from .report import Values
from .split_pairs import SplitPairs

NEAR = 10.0  # pairs less than this times their rounding apart are near

__all__ = ["near_pairs_note", "pairs_of_means", "pairs_of_rows", "reach_of_rows"]


def pairs_of_means(out: Values, m: Measured, plan: Plan) -> dict[str, Any]:
    """Add what pairs of class means give; return the histograms."""
    log_distance = PairFunction("log_distance", limits=LOG_DISTANCE_RANGE)
    functions = {
        "once": PairFunction("cdnv", 1),
        "twice": PairFunction("cdnv", 2),
        "cosine": PairFunction("cosine", target=-1 / max(m.count - 1, 1), limits=COSINE_RANGE),
        "raw": PairFunction("log_distance_raw"),  # its greatest value is of the nearest pair
    }
    centred = m.conventions.log_distance_centered
    if centred:
        functions["log"] = log_distance
    no_energy = without_energy(m.stats.dim - 2, plan)
    if not no_energy:
        functions["riesz"] = PairFunction("riesz", m.stats.dim - 2)
    found: dict[str, PairSummary] = {}
    if not m.few:
        known = Known(m.rounding.reach, m.rounding.center)
        pairs = Pairs(m.stats.means, m.slots, class_variances(m), m.center, known)
        found = dict(zip(functions, pairs.go_through([*functions.values()], plan), strict=True))
        if not centred:
            bare = Pairs(m.stats.means, m.slots, pairs.variances, None, Known(known.reach))
            found["log"] = bare.go_through([log_distance], plan)[0]
    names = ("once", "twice", "cosine", "raw", "log", "riesz")
    once, twice, cosine, raw, log, riesz = map(found.get, names)
    first = once if m.conventions.cdnv_power == 1 else twice
    rounded = m.few or (ROUNDED if m.equal == ROUNDED else "")
    left_out = float(once.coincident) if once is not None else math.nan
    out.put("pairs_left_out", left_out, m.few)
    near = nearest("class means", m.rounding.reach, raw)
    put_pairs(out, first, rounded, EQUAL, near, mean="cdnv_mean", std="cdnv_std")
    put_pairs(out, twice, rounded, EQUAL, near, mean="cdnv2_mean", std="cdnv2_std")
    said = m.directionless
    put_pairs(out, cosine, m.few or m.equal, EQUAL, said, deviation="equiangularity")
    alike = "all class means have one direction"
    keys = {"mean": "log_distance_mean", "std": "log_distance_std"}
    put_pairs(out, log, rounded if centred else m.few, alike, said if centred else "", **keys)
    put_pairs(out, riesz, rounded or no_energy, alike, said, mean="riesz_log_mean")
    drawn = {"pair_log_distance": log, "pair_cosine": cosine}
    return {name: v.histogram for name, v in drawn.items() if v is not None and v.histogram}


def pairs_of_rows(out: Values, m: Measured, plan: Plan) -> None:
    """Add what pairs of head rows give: the calibrated metrics."""
    undefined = m.few if m.head_weight is not None or m.split_head else NO_HEAD
    values: list[PairSummary | None] = [None] * 4
    near = ""
    if not undefined:
        asked = (("cdnv", 1), ("cdnv", 2), ("log_distance_raw", 1), ("log_distance", 1))
        functions = [PairFunction(*one) for one in asked]
        pairs, reach = _pairs_of_head(m)
        values = [*pairs.go_through(functions, replace(plan, bins=0))]
        near = nearest("head rows", reach, values[2])
    keys = ("nc1w_mean", "nc1w2_mean", "gnc2w_mean", "gnc2w_unit_mean")
    for key, value in zip(keys, values, strict=True):
        put_pairs(out, value, undefined, "all head rows coincide", near, mean=key)


def reach_of_rows(head_weight: Tensor, lengths: Tensor) -> Tensor:
    """Return [K] float64, how far head rows of these lengths may lie from what was rounded."""
    return row_errors(lengths, head_weight.dtype, head_weight.shape[1]).sqrt()


def _pairs_of_head(m: Measured) -> tuple[Pairs | SplitPairs, Tensor]:
    """Return the pairs, and how far each row may lie from what was rounded."""
    ids, variances = m.columns["class_ids"], m.columns["variances"]
    if m.split_head is not None:
        reach = reach_of_rows(m.split_head.shard.weight, m.columns["head_norms"])
        return SplitPairs(m.split_head, variances, reach), reach
    assert m.head_weight is not None
    reach = reach_of_rows(m.head_weight, m.columns["head_norms"])
    by_row = torch.zeros(m.stats.num_classes, dtype=torch.float64, device=ids.device)
    by_row[ids] = variances
    return Pairs(m.head_weight, ids, by_row, None, Known(reach)), reach


def without_energy(power: int, plan: Plan) -> str:
    """Say why there is no Riesz energy, if so."""
    if power < 1:
        return f"its power D - 2 is {power}; expected at least 1 (log_distance_mean is of power 0)"
    if plan.drawn is not None:
        return "the nearest pairs decide it, which a draw misses; expected all pairs"
    return ""


def nearest(what: str, reach: Tensor, raw: PairSummary | None) -> str:
    """Say that the nearest points left are not much further apart than their errors, if so."""
    if raw is None or not raw.pairs:
        return ""
    tolerance = 2 * float(reach.max())
    apart = math.exp(-raw.greatest)
    if apart > NEAR * tolerance:
        return ""
    return (
        f"the nearest {what} that count are {apart:.1e} apart, and rounding explains up to "
        f"{tolerance:.1e}: such pairs may decide this value"
    )


def near_pairs_note(pairs: float) -> str:
    """Say of how many pairs of means it is open which is nearer to a token."""
    if not pairs > 0:
        return ""
    return (
        "some class means are equal up to rounding (pairs_left_out): which of two such is nearer "
        "says nothing"
    )


def class_variances(m: Measured) -> Tensor:
    """Return [slots] float64, zero for classes that did not occur."""
    return m.stats.m2 / m.stats.counts.clamp(min=1)


def put_pairs(
    out: Values, value: PairSummary | None, undefined: str, equal: str, said: str = "", **keys: str
) -> None:
    """Add the mean, std or deviation of a function under the keys given for them."""
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
