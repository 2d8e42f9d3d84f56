"""Endpoints of a protocol as functions of a model's answers, and whether they have headroom."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..fairness.benchmarks import make
from ..fairness.clusters import LONELY, has_lonely
from ..fairness.inference import estimate, has_headroom
from ..fairness.intervals import Interval
from ..fairness.jackknife import student
from ..fairness.records import Record
from ..fairness.resampling import cluster_weights, expanded, varies
from ..fairness.statistic import Statistic
from .errors import ExperimentError
from .protocol import Endpoint

__all__ = [
    "draws_of",
    "few_units_of",
    "headroom",
    "interval_of",
    "measured",
    "statistic_of",
    "why_no_interval",
]

SEED = 0  # of clusters: the same draws in every cell, so that differences are paired


def statistic_of(endpoint: Endpoint, statistics: Sequence[Statistic]) -> Statistic:
    """Return an endpoint of a model's answers, by the statistics of its benchmark.

    Of several subsets it is the mean of their absolute values, and clusters are resampled within
    each of them. A score that the benchmark lacks is an ExperimentError.
    """
    found = {s.key: s for s in statistics}
    parts = []
    for subset in endpoint.subsets:
        key = subset, endpoint.variant, endpoint.metric
        if key not in found:
            known = ", ".join(sorted({" ".join(k) for k in found}))
            raise ExperimentError(
                f"the endpoint {endpoint.name!r} is {' '.join(key)} of {endpoint.benchmark}; "
                f"expected one of {known}"
            )
        parts.append(found[key])
    return parts[0] if len(parts) == 1 else _mean_absolute(parts)


def _mean_absolute(parts: Sequence[Statistic]) -> Statistic:
    ends = np.cumsum([0, *(len(p.items) for p in parts)])
    slices = [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]

    def value(weights: np.ndarray) -> np.ndarray:
        each = [np.abs(p.value(weights[:, s])) for p, s in zip(parts, slices, strict=True)]
        return np.mean(each, axis=0)

    strata = [
        f"{p.subset}/{stratum}"
        for p in parts
        for stratum in (p.strata if len(p.strata) else [""] * len(p.items))
    ]
    return replace(
        parts[0],
        subset=", ".join(p.subset for p in parts),
        value=value,
        pieces=(),
        stable=None,
        bounds=(0.0, max(abs(end) for p in parts for end in p.bounds)),
        items=[f"{p.subset}/{item}" for p in parts for item in p.items],
        clusters=[f"{p.subset}/{cluster}" for p in parts for cluster in p.clusters],
        strata=strata,
        unbiased=0.0,
        verdicts=None,
        effects=None,
    )


def draws_of(statistic: Statistic, resamples: int) -> np.ndarray:
    """Return a statistic [R] under resampled clusters, the same draws for every model."""
    drawn = [statistic.value(w) for w in cluster_weights(statistic, resamples, SEED)]
    return np.concatenate(drawn)


def measured(endpoint: Endpoint, records: Sequence[Record], resamples: int) -> dict[str, Any]:
    """Return an endpoint of one model as a cell keeps it, by the records of its benchmark.

    That is ``value``, ``unbiased``, ``low``, ``high`` and ``standard_error`` (of the interval that
    ``evaluate`` gives it), ``drawn`` (under resampled clusters), ``freedom`` and ``inflation`` (of
    their variance, see ``jackknife.student``), ``noise`` (over several subsets: the mean distance
    of each from its own value, under the same draws), ``lonely`` (a stratum has one cluster) and
    ``items`` (a digest: two cells compare only where it is equal).
    """
    statistics = make(endpoint.benchmark).statistics(records)  # SEAT's hold permutation tests
    statistic = statistic_of(endpoint, statistics)
    drawn = draws_of(statistic, resamples)
    noise = None
    if len(endpoint.subsets) > 1:
        singles = [replace(endpoint, subsets=(subset,)) for subset in endpoint.subsets]
        parts = [statistic_of(single, statistics) for single in singles]
        noise = np.mean([np.abs(draws_of(p, resamples) - _value(p)) for p in parts], axis=0)
    items = "\n".join(map(str, statistic.items))
    few = student(statistic.value, statistic, False) if varies(statistic) else None
    found = estimate(statistic)
    return {
        "value": _value(statistic),
        "unbiased": statistic.unbiased,
        "low": found.low,
        "high": found.high,
        "standard_error": found.standard_error,
        "drawn": [float(x) for x in drawn],
        "freedom": None if few is None else few[0],
        "inflation": None if few is None else few[1],
        "noise": None if noise is None else [float(x) for x in noise],
        "lonely": has_lonely(statistic),
        "items": hashlib.sha256(items.encode()).hexdigest()[:16],
        "clusters": len(_clusters(statistic)),
        "n": len(statistic.items),
    }


def _clusters(statistic: Statistic) -> set[tuple[str, str]]:
    strata = statistic.strata if len(statistic.strata) else [""] * len(statistic.clusters)
    return set(zip(strata, statistic.clusters, strict=True))


def _value(statistic: Statistic) -> float:
    return float(statistic.value(np.ones((1, len(statistic.items))))[0])


def few_units_of(*entries: Mapping[str, Any] | None) -> tuple[float, float]:
    """Return freedom and inflation of an endpoint's clusters, of the first entry that keeps them.

    Cells of before they were kept know the number of clusters alone, which then count as one
    stratum.

    >>> few_units_of({"clusters": 10}), few_units_of(None, {"freedom": 8.0, "inflation": 1.25})
    ((9.0, 1.1111111111111112), (8.0, 1.25))
    """
    known = [entry for entry in entries if entry]
    for entry in known:
        if entry.get("freedom"):
            return float(entry["freedom"]), float(entry["inflation"])
    clusters = max(2, *(entry.get("clusters") or 0 for entry in known), 0)
    return clusters - 1.0, clusters / (clusters - 1)


def why_no_interval(*entries: Mapping[str, Any] | None, seeds: int = 2) -> str:
    """Return why nothing is said of other clusters, or seeds; empty where something can be.

    The rule is that of ``evaluate``: none where a stratum has one cluster. Cells of before that was
    kept have no ``freedom`` where no stratum has more.

    >>> why_no_interval({"lonely": True})[:12], why_no_interval({"drawn": [1.0], "freedom": 4.0})
    ('no interval:', '')
    """
    for entry in filter(None, entries):
        alone = entry.get("drawn") and entry.get("clusters") == 1
        if entry.get("lonely", alone or ("freedom" in entry and entry["freedom"] is None)):
            return LONELY
    return "" if seeds > 1 else "no interval: of one seed alone nothing says what others give"


def interval_of(found: Mapping[str, Any]) -> Interval:
    """Return the 95 % interval of what was measured, as ``evaluate`` gives it.

    Cells of before it was kept have resampled clusters alone.
    """
    # Undefined, as a correlation with what never varies; or of clusters that say nothing of others.
    if found.get("value") is None or why_no_interval(found):
        return Interval()
    if "low" in found:
        return Interval(found["low"], found["high"], found["standard_error"])
    drawn = np.asarray(found.get("drawn") or (), dtype=np.float64)
    return expanded(float(found["value"]), drawn, *few_units_of(found))


def headroom(found: Mapping[str, Any]) -> dict[str, float | bool | None]:
    """Say how far what was measured lies from a model without the bias, in standard errors.

    The rule is that of ``evaluate``. A mean of absolute values, which no benchmark there has, is
    above 0 by noise alone, and is compared with what noise gives. Returns ``z`` and ``headroom``;
    None where there is no unbiased value.
    """
    interval = interval_of(found) if found.get("drawn") else Interval()
    low, high, error = interval.low, interval.high, interval.standard_error
    if found.get("unbiased") is None or low is None or high is None or error is None:
        return {"z": None, "headroom": None}
    center = float(found["unbiased"])
    distance = abs(found["value"] - center)
    if found["noise"] is not None:
        noise = np.asarray(found["noise"], dtype=np.float64)
        noise = noise[np.isfinite(noise)]
        if len(noise) < 2:
            return {"z": None, "headroom": None}
        center = float(noise.mean())
        distance = found["value"] - center  # nearer to 0 than by chance is no bias
        error = float(noise.std(ddof=1)) * few_units_of(found)[1] ** 0.5
    holds = low <= center <= high
    z = (found["value"] - center) / error if error else None
    return {"z": z, "headroom": has_headroom(distance, error, holds)}
