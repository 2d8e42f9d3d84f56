"""The eight rows a reader needs first: is it collapsed, and are these words different?

They are what the papers compare: NC1, the two halves of NC2 and its spherical form, NC3 and its
spread (U)NC3, and the two calibrated forms. NC4 is a ninth row where it was measured. Everything
else a report holds repeats one of them in another unit or at another power.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..catalogue import HIGHER, LEADING, LOWER, explain_metric
from .tables import MISSING, certainty, format_number

MORE, LESS, ALIKE = "more collapsed", "less collapsed", "alike"


@dataclass(frozen=True)
class LeadingRow:
    """Hold one leading metric over the vocabulary, a word set and its matched control.

    >>> LeadingRow("nc3_mean", ("0.31",), ("",), "").key
    'nc3_mean'
    """

    key: str  # the metric's key
    cells: tuple[str, ...]  # one text per set
    details: tuple[str, ...]  # one text per set, an interval or a standard error; may be empty
    words: str  # how the word set stands to its controls; empty without a word set


@dataclass(frozen=True)
class LeadingTable:
    """Hold the leading rows of one word set, or of the vocabulary alone.

    >>> LeadingTable("", ("vocabulary",), ()).rows
    ()
    """

    name: str  # the word set; empty for the vocabulary alone
    columns: tuple[str, ...]  # titles of the value columns
    rows: tuple[LeadingRow, ...]  # the rows


def leading_tables(report: Mapping[str, Any]) -> list[LeadingTable]:
    """Choose the leading rows: a table per word set, or one of the vocabulary where there is none.

    >>> leading_tables({"sets": {}})
    []
    """
    sets = report["sets"]
    if "vocabulary" not in sets:
        return []
    names = [name for name, section in sets.items() if section["kind"] == "words"]
    return [_table(sets, name) for name in names] or [_table(sets, "")]


def _table(sets: Mapping[str, Any], name: str) -> LeadingTable:
    shown = [("vocabulary", sets["vocabulary"])]
    if name:
        shown.append((name, sets[name]))
        if matched := matched_control(sets, name):
            shown.append(("matched control", matched))
    sure = [certainty(section) for _, section in shown]
    rows = tuple(
        LeadingRow(
            key,
            tuple(format_number(section["metrics"].get(key), 3) for _, section in shown),
            tuple(found.get(key, "") for found in sure),
            how_words_stand(sets, name, key) if name else "",
        )
        for key in LEADING
        if any(key in section["metrics"] for _, section in shown)
    )
    return LeadingTable(name, tuple(title for title, _ in shown), rows)


def matched_control(sets: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """Return the section of a word set's control of matched frequency, or None.

    >>> matched_control({}, "gender") is None
    True
    """
    for section in sets.values():
        if section["kind"] == "matched" and section["of"] == name:
            return section
    return None


def how_words_stand(sets: Mapping[str, Any], name: str, key: str) -> str:
    """Say whether a word set is more or less collapsed than its controls.

    It is said to differ only where its bootstrap interval does not overlap that of the matched
    control, and its value outside the range of the random controls, on the same side: whichever
    of the two there is. Anything less may depend on a few words: a dash where there is neither, or
    where the set or its matched control has too few words for an interval.

    >>> words = {"kind": "words", "of": None, "metrics": {"nc3_mean": 0.5},
    ...     "intervals": {"nc3_mean": [0.4, 0.6]}}
    >>> like = {"kind": "matched", "of": "jobs", "metrics": {"nc3_mean": 0.2},
    ...     "intervals": {"nc3_mean": [0.1, 0.3]}}
    >>> how_words_stand({"jobs": words, "jobs/matched": like}, "jobs", "nc3_mean")
    'more collapsed'
    """
    section, direction = sets[name], explain_metric(key).direction
    beside = [section, matched_control(sets, name)]
    if any(found is not None and _interval(found, key) is None for found in beside):
        return MISSING
    sides = [_beside_matched(sets, name, key), _beside_random(sets, section, key)]
    known = [side for side in sides if side is not None]
    if not known or direction not in (LOWER, HIGHER):
        return MISSING
    if any(side == 0 for side in known) or len(set(known)) > 1:
        return ALIKE
    return MORE if (known[0] < 0) == (direction == LOWER) else LESS


def _interval(section: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    low, high = section.get("intervals", {}).get(key) or (None, None)
    return None if low is None or high is None else (low, high)


def _beside_matched(sets: Mapping[str, Any], name: str, key: str) -> int | None:
    """Return -1 or 1 where the interval lies below or above that of the control, else 0."""
    other = matched_control(sets, name)
    ends, ends_other = (_interval(s, key) if s is not None else None for s in (sets[name], other))
    if ends is None or ends_other is None:
        return None
    (low, high), (low_other, high_other) = ends, ends_other
    return -1 if high < low_other else 1 if low > high_other else 0


def _beside_random(sets: Mapping[str, Any], section: Mapping[str, Any], key: str) -> int | None:
    names = (section.get("random_controls") or {}).get("names", [])
    values = [sets[control]["metrics"].get(key) for control in names if control in sets]
    own = section["metrics"].get(key)
    if len(values) < 2 or own is None or any(v is None for v in values):
        return None
    return -1 if own < min(values) else 1 if own > max(values) else 0


def how_read(tables: list[LeadingTable]) -> str:
    """Explain the last columns of the leading table.

    >>> how_read([])
    ''
    """
    if not any(table.name for table in tables):
        return ""
    return (
        f"“{MORE}” or “{LESS}” is said of a word set only where its interval does not overlap "
        "that of words as frequent in this text (the matched control), and its value outside "
        "the range of the random controls, on the same side; “-” where there is no interval."
    )
