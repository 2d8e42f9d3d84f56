"""From neural-collapse results to the ``sets`` part of a report document.

Every number here is a count, a quantile or a histogram of what the metrics returned, which
are only copied. Histograms share their edges over all sets, so that they can be laid side by side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..catalogue import explain_metric
from .histograms import count_values, describe_pairs, shared_edges

DISTRIBUTIONS = ("cosines", "norms", "head_norms")
PAIR_DISTRIBUTIONS = ("pair_log_distance", "pair_cosine")


class CollapseResult(Protocol):
    """Name what a section needs: an ``NCReport`` and the bootstrap intervals of its values."""

    @property
    def notes(self) -> Mapping[str, str]: ...

    @property
    def per_class(self) -> Mapping[str, Any]: ...

    @property
    def standard_errors(self) -> Mapping[str, float]: ...

    @property
    def distributions(self) -> Mapping[str, Mapping[str, Any]]: ...

    @property
    def intervals(self) -> Mapping[str, tuple[float, float]]: ...

    def to_dict(self) -> dict[str, float]: ...


@dataclass
class SetDescription:
    """Hold what the language side knows about one set of classes.

    >>> SetDescription("vocabulary", requested=30522).of is None
    True
    """

    kind: str  # ``vocabulary``, ``words``, ``random`` or ``matched``
    requested: int  # how many classes were asked for
    of: str | None = None  # the word set a control belongs to
    # class id -> (words, groups), for sets that are listed word by word
    labels: Mapping[int, tuple[Sequence[str], Sequence[str]]] | None = None
    words: Mapping[str, Any] | None = None  # {kept, dropped, ambiguous, notes}, for word sets
    # class id -> occurrences in the text, where only a part is measured
    occurrences: Mapping[int, int] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def build_sets(
    results: Mapping[str, CollapseResult],
    descriptions: Mapping[str, SetDescription],
    names: Mapping[int, str],
) -> dict[str, Any]:
    """Build the ``sets`` part of a report: set name -> section (``ncfast.reporting.document``).

    ``results`` (``NCReport``, of ``vocabulary`` too) and ``descriptions`` are by set name,
    ``names`` the vocabulary's own of the classes listed.
    """
    edges = {name: _edges(results, name) for name in DISTRIBUTIONS}
    vocabulary = _columns(results["vocabulary"])
    ranks = _ranks(vocabulary)
    sets = {
        name: _section(result, descriptions[name], edges, ranks, names)
        for name, result in results.items()
    }
    sets["vocabulary"]["rank_counts"] = _rank_counts(vocabulary["counts"])
    for name in sets:
        _compare_with_random(sets, name)
        _compare_with_matched(sets, name)
        if controls := sets[name].get("random_controls"):
            controls["distributions"] = _pooled([results[c] for c in controls["names"]], edges)
    return sets


def _columns(result: CollapseResult) -> dict[str, np.ndarray]:
    return {name: np.asarray(column) for name, column in result.per_class.items()}


def _edges(results: Mapping[str, CollapseResult], name: str) -> np.ndarray | None:
    values = [_columns(result).get(name) for result in results.values()]
    return shared_edges([column for column in values if column is not None])


def _pooled(
    results: Sequence[CollapseResult], edges: Mapping[str, np.ndarray | None]
) -> dict[str, Any]:
    """Describe several controls together: each class and pair of each control counts once."""
    columns = [_columns(result) for result in results]
    classes = {
        name: count_values(np.concatenate([column[name] for column in columns]), shared)
        for name, shared in edges.items()
        if shared is not None and all(name in column for column in columns)
    }
    return classes | _pairs(results)


def _pairs(results: Sequence[CollapseResult]) -> dict[str, Any]:
    return {
        name: describe_pairs([result.distributions[name] for result in results])
        for name in PAIR_DISTRIBUTIONS
        if all(name in result.distributions for result in results)
    }


def _ranks(vocabulary: Mapping[str, np.ndarray]) -> dict[int, int]:
    order = np.argsort(-vocabulary["counts"], kind="stable")
    ids = vocabulary["class_ids"][order].tolist()
    return {class_id: rank for rank, class_id in enumerate(ids, start=1)}


def _rank_counts(counts: np.ndarray) -> list[list[int]]:
    """Thin the count-against-rank curve to about a hundred points, evenly spaced in log rank."""
    if counts.size == 0:
        return []
    descending = np.sort(counts)[::-1]
    ranks = np.unique(np.geomspace(1, descending.size, 100).round().astype(np.int64))
    return [[int(rank), int(descending[rank - 1])] for rank in ranks]


def _section(
    result: CollapseResult,
    description: SetDescription,
    edges: Mapping[str, np.ndarray | None],
    ranks: Mapping[int, int],
    names: Mapping[int, str],
) -> dict[str, Any]:
    columns = _columns(result)
    rows = None
    if description.labels is not None:
        rows = _rows(columns, description, ranks, names)
    counts = columns["counts"]
    return {
        "kind": description.kind,
        "of": description.of,
        "metrics": {key: float(value) for key, value in result.to_dict().items()},
        "notes": dict(result.notes),
        "intervals": {key: list(ends) for key, ends in result.intervals.items()},
        "standard_errors": dict(result.standard_errors),
        "classes_requested": description.requested,
        "classes_present": int(counts.size),
        "classes_seen_once": int((counts == 1).sum()),
        "tokens": int(counts.sum()),
        "words": dict(description.words) if description.words is not None else None,
        "seen": _seen(int(counts.sum()), description.occurrences),
        "distributions": {
            name: count_values(columns[name], shared)
            for name, shared in edges.items()
            if shared is not None and name in columns
        }
        | _pairs([result]),
        "groups": _groups(rows or []),
        "per_class": rows,
        **description.extra,
    }


def _seen(measured: int, occurrences: Mapping[int, int] | None) -> dict[str, Any] | None:
    if occurrences is None:
        return None
    total = sum(occurrences.values())
    return {
        "occurrences": total,
        "measured": measured,
        "share": measured / total if total else None,
    }


def _rows(
    columns: Mapping[str, np.ndarray],
    description: SetDescription,
    ranks: Mapping[int, int],
    names: Mapping[int, str],
) -> list[dict[str, Any]]:
    labels = description.labels or {}
    listed = {name: column.tolist() for name, column in columns.items()}
    rows = []
    for position, class_id in enumerate(listed["class_ids"]):
        words, groups = labels.get(class_id, ((), ()))
        count = listed["counts"][position]
        row = {
            "id": class_id,
            "word": names.get(class_id, str(class_id)),
            "words": list(words),
            "groups": list(groups),
            "count": count,
            "rank": ranks.get(class_id),
        }
        for key, column in (("cosine", "cosines"), ("norm", "norms"), ("head_norm", "head_norms")):
            row[key] = listed[column][position] if column in listed else None
        if description.occurrences is not None:
            total = description.occurrences.get(class_id, 0)
            row["seen_share"] = count / total if total else None
        rows.append(row)
    return rows


def _groups(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum up each group of words; a word of two groups counts in both."""
    members: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        for group in row["groups"]:
            members.setdefault(group, []).append(row)
    return {
        group: {
            "classes": len(listed),
            "tokens": sum(row["count"] for row in listed),
            "cosine_mean": _mean([row["cosine"] for row in listed]),
            "norm_mean": _mean([row["norm"] for row in listed]),
        }
        for group, listed in members.items()
    }


def _mean(values: Sequence[float | None]) -> float | None:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else None


def _std(values: Sequence[float]) -> float | None:
    centre = _mean(values)
    if centre is None or len(values) < 2:
        return None
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1))


def _compare_with_random(sets: dict[str, Any], name: str) -> None:
    """Add the mean and spread of a word set's random controls, and its ratio to that mean."""
    controls = [other for other, s in sets.items() if s["kind"] == "random" and s["of"] == name]
    if not controls:
        return
    mean: dict[str, float | None] = {}
    std: dict[str, float | None] = {}
    ratio: dict[str, float | None] = {}
    intervals = {}
    for key, value in sets[name]["metrics"].items():
        values = [sets[control]["metrics"].get(key, math.nan) for control in controls]
        # One undefined control makes the mean undefined: leaving it out would be another mean.
        sound = all(math.isfinite(v) for v in values)
        mean[key] = _mean(values) if sound else None
        std[key] = _std(values) if sound else None
        centre = mean[key]
        ratio[key] = _ratio(key, value, centre)
        if ratio[key] is not None and centre and key in sets[name]["intervals"]:
            intervals[key] = sorted(end / centre for end in sets[name]["intervals"][key])
    sets[name]["random_controls"] = {"names": controls, "mean": mean, "std": std}
    sets[name]["ratio_to_random"] = ratio
    sets[name]["ratio_to_random_intervals"] = intervals


def _compare_with_matched(sets: dict[str, Any], name: str) -> None:
    """Add the ratio of a word set to its control of matched frequency."""
    for other in sets.values():
        if other["kind"] == "matched" and other["of"] == name:
            values = sets[name]["metrics"].items()
            sets[name]["ratio_to_matched"] = {
                key: _ratio(key, value, other["metrics"].get(key)) for key, value in values
            }


def _ratio(key: str, value: float, base: float | None) -> float | None:
    if not explain_metric(key).ratio:
        return None
    if not base or not math.isfinite(base) or not math.isfinite(value):
        return None
    return value / base
