"""What a comparison comes to, in three lines: what changed, what did not, what cannot be said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..catalogue import HIGHER, LEADING, LOWER, explain_metric
from .tables import format_number

NAMED = 3  # changes that are named beside the largest; the table has all


def verdict(document: Mapping[str, Any]) -> list[str]:
    """State in three lines what a comparison comes to: changed, not changed, cannot be said.

    A metric of a word set is said to have changed only where its two bootstrap intervals do not
    overlap. Of those that did, the one whose values lie farthest apart in units of its intervals
    comes first.

    >>> verdict({"labels": ["a", "b"], "differences": [], "left_out": {}, "sets": {}})[0]
    'Changed beyond its interval: nothing.'
    """
    found = [
        (name, key, entry)
        for name, section in document["sets"].items()
        for key, entry in section["metrics"].items()
        if key in LEADING
    ]
    moved = [one for one in found if one[2]["apart"] is True]
    moved.sort(key=lambda one: -_in_intervals(one[2]))
    stayed = [one for one in found if one[2]["apart"] is False]
    return [_changed(moved), _unchanged(stayed), _unsaid(document, found)]


def _in_intervals(entry: Mapping[str, Any]) -> float:
    """Measure a difference in half-widths of the wider interval."""
    width = max(entry[end][1] - entry[end][0] for end in ("interval_a", "interval_b"))
    return abs(entry["difference"]) / (width / 2) if width else abs(entry["difference"])


def name_of(key: str) -> str:
    """Return the short name of a leading metric, or the title of another.

    >>> name_of("unc3_std"), name_of("etf_error")
    ('(U)NC3', 'Distance from a simplex')
    """
    return LEADING[key].symbol if key in LEADING else explain_metric(key).title


def _changed(moved: list[tuple[str, str, Any]]) -> str:
    if not moved:
        return "Changed beyond its interval: nothing."
    name, key, entry = moved[0]
    text = (
        f"Changed most beyond its interval: {name_of(key)} of {name}, from "
        f"{format_number(entry['a'], 3)} to {format_number(entry['b'], 3)}"
    )
    if entry["ratio"] is not None:
        text += f" ({entry['ratio']:.3g} times)"
    text += f", so {_direction(key, entry['difference'])}"
    for control in ("matched", "random"):
        beside = entry[control]
        if beside and beside["ratio"] is not None:
            what = "words as frequent" if control == "matched" else "random words"
            text += f"; {what} changed {beside['ratio']:.3g} times"
            break
    others = [
        f"{name_of(k)} of {n} ({_direction(k, e['difference'])})"
        for n, k, e in moved[1 : 1 + NAMED]
    ]
    if others:
        text += f". Also: {', '.join(others)}"
    if len(moved) > 1 + NAMED:
        text += f" and {len(moved) - 1 - NAMED} more"
    return text + "."


def _direction(key: str, difference: float) -> str:
    direction = explain_metric(key).direction
    if direction not in (LOWER, HIGHER):
        return "higher" if difference > 0 else "lower"
    return "more collapsed" if (difference < 0) == (direction == LOWER) else "less collapsed"


def _unchanged(stayed: list[tuple[str, str, Any]]) -> str:
    if not stayed:
        return "Not changed beyond their intervals: nothing that has intervals."
    by_set: dict[str, list[str]] = {}
    for name, key, _ in stayed:
        by_set.setdefault(name, []).append(name_of(key))
    parts = [f"{', '.join(keys)} of {name}" for name, keys in by_set.items()]
    return f"Not changed beyond their intervals: {'; '.join(parts)}."


def _unsaid(document: Mapping[str, Any], found: Iterable[tuple[str, str, Any]]) -> str:
    """Name what the intervals do not cover; they are over classes, within one run of each."""
    without = dict.fromkeys(name for name, _, entry in found if entry["apart"] is None)
    reasons = [f"{_and(without)}, where no interval was made"] if without else []
    reasons.append("whether another seed or another text would give the same: one run of each")
    if document["differences"]:
        count = len(document["differences"])
        things = "one more thing differs" if count == 1 else f"{count} more things differ"
        reasons.append(f"what is owed to the model alone, as {things} (see the notes)")
    if document["left_out"]:
        count = len(document["left_out"])
        what = "one metric that means" if count == 1 else f"{count} metrics that mean"
        reasons.append(f"{what} something else in each report")
    return f"Cannot be said: {'; '.join(reasons)}."


def _and(names: Iterable[str]) -> str:
    *most, last = (f"the {name}" if name == "vocabulary" else name for name in names)
    return f"{', '.join(most)} and {last}" if most else last
