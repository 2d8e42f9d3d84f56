"""Histograms of a report: of class values, and of values of pairs of classes.

Class values are few enough to be counted here, over edges shared by all sets. Pairs are far too
many to be held; the metrics count them into fixed edges while it visits them, and what is
here only reads quantiles off the counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BINS = 60
PAIR_BINS = 120  # cosines of pairs crowd around 0: 60 bins would give them a dozen
QUANTILES = {"min": 0.0, "p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
PAIR_QUANTILES = {name: share for name, share in QUANTILES.items() if name not in ("min", "max")}


def shared_edges(columns: Sequence[np.ndarray]) -> np.ndarray | None:
    """Return BINS + 1 rising bin edges that hold every finite value of several columns, or None.

    >>> shared_edges([np.array([0.0, 3.0]), np.array([6.0])])[[0, -1]].tolist()
    [0.0, 6.0]
    """
    finite = [column[np.isfinite(column)] for column in columns]
    joined = np.concatenate(finite).astype(np.float64) if finite else np.empty(0)
    if joined.size == 0:
        return None
    low, high = float(joined.min()), float(joined.max())
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-30):
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, BINS + 1)


def count_values(column: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
    """Count values into bins, with exact quantiles: {edges, counts, quantiles, undefined}.

    >>> count_values(np.array([0.0, 1.0, np.nan]), np.array([0.0, 0.5, 1.0]))["counts"]
    [1, 1]
    """
    finite = column[np.isfinite(column)].astype(np.float64)
    counts, _ = np.histogram(finite, bins=edges)
    quantiles: dict[str, float | None] = dict.fromkeys(QUANTILES)
    if finite.size:
        levels = np.quantile(finite, list(QUANTILES.values()))
        quantiles = dict(zip(QUANTILES, levels.tolist(), strict=True))
    return {
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "quantiles": quantiles,
        "undefined": int(column.size - finite.size),
    }


def describe_pairs(histograms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Describe the histogram of pairs of one set, or of several sets together.

    ``histograms`` are {edges, counts, coincident, outside}, ``outside`` where there is any; other
    edges are a ValueError. Quantiles are read off the histogram: they are right to the width of a
    bin.

    >>> half = {"edges": [0.0, 1.0, 2.0], "counts": [4, 4], "coincident": 1}
    >>> describe_pairs([half, half])["quantiles"]["p50"]
    1.0
    """
    edges = [np.asarray(found["edges"], dtype=np.float64) for found in histograms]
    if not edges or any(not np.array_equal(edges[0], other) for other in edges):
        raise ValueError(
            "histograms of pairs cannot be added: expected some, all with the same edges"
        )
    counts = sum(np.asarray(found["counts"], dtype=np.int64) for found in histograms)
    assert isinstance(counts, np.ndarray)
    return {
        "edges": edges[0].tolist(),
        "counts": counts.tolist(),
        "quantiles": _quantiles(edges[0], counts),
        "coincident": sum(int(found["coincident"]) for found in histograms),
        "outside": sum(int(found.get("outside", 0)) for found in histograms),
    }


def _quantiles(edges: np.ndarray, counts: np.ndarray) -> dict[str, float | None]:
    """Read quantiles off a histogram, as if values were spread evenly inside each bin."""
    total = int(counts.sum())
    if not total:
        return dict.fromkeys(PAIR_QUANTILES)
    shares = np.concatenate([[0.0], np.cumsum(counts) / total])
    levels = np.interp(list(PAIR_QUANTILES.values()), shares, edges)
    return dict(zip(PAIR_QUANTILES, levels.tolist(), strict=True))
