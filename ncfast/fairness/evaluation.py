"""The content of ``evaluation.json``: scores with intervals, and paired differences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from .clusters import LONELY, has_lonely
from .inference import Estimate, compare, estimate
from .records import Record, subsets_of
from .selection import Selection
from .settings import Settings
from .statistic import Statistic

__all__ = [
    "NONE_MADE",
    "SCHEMA",
    "UNIFORM",
    "Evaluation",
    "build_evaluation",
    "left_out",
    "score_row",
]

SCHEMA = "ncfast-evaluation/1"
UNIFORM = "uniform"
NONE_MADE = "no interval is made of it"  # a p-value, a count


@dataclass
class Evaluation:
    """Hold what was found, as ``evaluation.json`` and the items' file have it.

    Attributes:
        document: the content of ``evaluation.json``.
        records: the items' answers by (model, benchmark).
    """

    document: dict[str, Any]
    records: dict[tuple[str, str], list[Record]] = field(default_factory=dict)

    def scores(self, **keys: str) -> list[dict[str, Any]]:
        """Return the rows of ``scores`` with these values.

        Args:
            keys: such as ``benchmark="stereoset", metric="ss"``.

        Returns:
            The rows.
        """
        rows: list[dict[str, Any]] = self.document["scores"]
        return [row for row in rows if all(row[k] == v for k, v in keys.items())]


def build_evaluation(
    found: Mapping[tuple[str, str], list[Record]],
    models: Sequence[Mapping[str, Any]],
    selection: Selection,
    settings: Settings,
) -> Evaluation:
    """Compute scores and paired differences of what the models answered; the first is the base."""
    statistics = {
        (model, key): selection.chosen[key].benchmark.statistics(records)
        for (model, key), records in found.items()
    }
    scores = [
        score_row(model, key, s, estimate(_by_rule(model, s), settings.resamples, settings.seed))
        for (model, key), several in statistics.items()
        for s in several
    ]
    first = models[0]["name"]
    differences: list[dict[str, Any]] = []
    alone: list[dict[str, str]] = []
    for other in [m["name"] for m in models if m["name"] not in (first, UNIFORM)]:
        for key in selection.chosen:
            names = {"first": first, "second": other, "benchmark": key}
            benchmark = selection.chosen[key].benchmark
            mine = {s.key: s for s in statistics.get((first, key), [])}
            yours = {s.key: s for s in statistics.get((other, key), [])}
            both = [k for k in yours if k in mine]
            if mine and yours and not both:
                reason = f"not compared with {first}: no variant is scored for both"
                alone.append({"benchmark": key, "model": other, "reason": reason})
            one, two = found.get((first, key), []), found.get((other, key), [])
            scored = _scored(one), _scored(two)
            apart = [
                k
                for k in both
                if list(mine[k].items) != list(yours[k].items)
                or scored[0].get(k[:2]) != scored[1].get(k[:2])  # a profession's own sentences
            ]
            if apart:  # each has items that the other could not be asked
                one, two = _shared(one, two)
                mine = {s.key: s for s in benchmark.statistics(one)}
                yours = {s.key: s for s in benchmark.statistics(two)}
            differences += [
                names | _difference(k, mine.get(k), yours.get(k), settings, k in apart)
                for k in both
            ]
    document = {
        "schema": SCHEMA,
        "settings": {**asdict(settings), "on": list(settings.on)},
        "models": list(models),
        "scores": scores,
        "differences": differences,
        "skipped": [*selection.skipped, *left_out(found), *alone],
        "readings": {key: chosen.benchmark.reading for key, chosen in selection.chosen.items()},
        "sources": {key: chosen.benchmark.source for key, chosen in selection.chosen.items()},
    }
    return Evaluation(json.loads(json.dumps(document, allow_nan=False)), dict(found))


def _by_rule(model: str, s: Statistic) -> Statistic:
    """Return the statistic without bounds for the control, whose ties are no chance."""
    return replace(s, bounds=(-np.inf, np.inf)) if model == UNIFORM else s


def score_row(model: str, benchmark: str, s: Statistic, e: Estimate) -> dict[str, Any]:
    """Return a score as ``evaluation.json`` has it; an undefined value is null, and noted."""
    notes = [s.note] if s.note else []
    if e.headroom is False:
        notes.insert(0, "no headroom")
    notes += _missing(s, _number(e.value), _number(e.low))
    return {
        "model": model,
        "benchmark": benchmark,
        "subset": s.subset,
        "variant": s.variant,
        "metric": s.metric,
        "value": _number(e.value),
        "low": _number(e.low),
        "high": _number(e.high),
        "n": e.items,
        "clusters": e.clusters,
        "note": "; ".join(notes),
    }


def _missing(s: Statistic, value: float | None, low: float | None) -> list[str]:
    """Return why a row has no value or no interval; nothing where it has both."""
    if value is None:
        why = "what it divides by is 0 for these items" if len(s.items) else "no item has an answer"
        return [f"undefined: {why}"]
    if low is not None:
        return []
    if not s.resampled:
        return [NONE_MADE]
    return [LONELY if has_lonely(s) else "no interval: undefined without some of its clusters"]


def _shared(one: Sequence[Record], two: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Return the records of the items that two models both have a score of."""
    known = [{(r.variant, r.item) for r in records if not r.excluded} for records in (one, two)]
    both = known[0] & known[1]
    first, second = ([r for r in some if (r.variant, r.item) in both] for some in (one, two))
    return first, second


def _scored(records: Sequence[Record]) -> dict[tuple[str, str], set[str]]:
    """Return the items that have an answer, by subset and variant."""
    found: dict[tuple[str, str], set[str]] = {}
    for r in records:
        for subset in () if r.excluded else r.subsets:
            found.setdefault((subset, r.variant), set()).add(r.item)
    return found


def left_out(found: Mapping[tuple[str, str], Sequence[Record]]) -> list[dict[str, str]]:
    """Name the subsets of which every item was excluded, with the reason."""
    entries: list[dict[str, str]] = []
    for (model, key), records in found.items():
        by_reason: dict[str, list[str]] = {}
        for variant in dict.fromkeys(r.variant for r in records):
            for subset in subsets_of(records, variant):
                members = [r for r in records if r.variant == variant and subset in r.subsets]
                if all(r.excluded for r in members):
                    by_reason.setdefault(members[0].excluded, []).append(subset)
        entries += [
            {
                "benchmark": key,
                "model": model,
                "reason": f"{', '.join(dict.fromkeys(subsets))}: {reason}",
            }
            for reason, subsets in by_reason.items()
        ]
    return entries


def _difference(
    key: tuple[str, str, str],
    one: Statistic | None,
    two: Statistic | None,
    settings: Settings,
    apart: bool,
) -> dict[str, Any]:
    row = dict(zip(("subset", "variant", "metric"), key, strict=True))
    if one is None or two is None or list(one.items) != list(two.items):
        return row | {"value": None, "low": None, "high": None, "note": "no items of both models"}
    d = compare(one, two, settings.resamples, settings.seed)
    notes = [f"of the {len(one.items)} items that both models scored"] if apart else []
    notes += _missing(one, _number(d.value), _number(d.low))
    return row | {
        "value": _number(d.value),
        "low": _number(d.low),
        "high": _number(d.high),
        "changed": d.changed,
        "p_value": _number(d.p_value),
        "test": d.test,
        "note": "; ".join(notes),
    }


def _number(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None  # NaN is null
