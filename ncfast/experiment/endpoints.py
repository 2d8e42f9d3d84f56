"""Endpoints of a protocol as functions of a model's answers, and whether they have headroom."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..fairness.benchmarks import make
from ..fairness.records import Record
from ..fairness.resampling import cluster_weights
from ..fairness.statistic import Statistic
from .errors import ExperimentError
from .protocol import Endpoint

__all__ = ["draws_of", "headroom", "measured", "statistic_of"]

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

    That is ``value``, ``unbiased``, ``drawn`` (under resampled clusters), ``noise`` (over several
    subsets: the mean distance of each from its own value, under the same draws) and ``items`` (a
    digest: two cells compare only where it is equal).
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
    return {
        "value": _value(statistic),
        "unbiased": statistic.unbiased,
        "drawn": [float(x) for x in drawn],
        "noise": None if noise is None else [float(x) for x in noise],
        "items": hashlib.sha256(items.encode()).hexdigest()[:16],
        "clusters": len(_clusters(statistic)),
        "n": len(statistic.items),
    }


def _clusters(statistic: Statistic) -> set[tuple[str, str]]:
    strata = statistic.strata if len(statistic.strata) else [""] * len(statistic.clusters)
    return set(zip(strata, statistic.clusters, strict=True))


def _value(statistic: Statistic) -> float:
    return float(statistic.value(np.ones((1, len(statistic.items))))[0])


def headroom(found: Mapping[str, Any]) -> dict[str, float | bool | None]:
    """Say how far what was measured lies from a model without the bias, in standard errors.

    A mean of absolute values is above 0 by noise alone, and is compared with what noise gives.
    Returns ``z`` and ``headroom``, whether abs(z) is 2 or more; None where there is no unbiased
    value.
    """
    if found.get("unbiased") is None or not found.get("drawn"):
        return {"z": None, "headroom": None}
    if found["noise"] is not None:
        noise = np.asarray(found["noise"])
        z = (found["value"] - noise.mean()) / noise.std(ddof=1)
    else:
        drawn = np.asarray(found["drawn"])
        error = drawn[np.isfinite(drawn)].std(ddof=1)
        z = (found["value"] - found["unbiased"]) / error
    return {"z": float(z), "headroom": bool(abs(z) >= 2)}
