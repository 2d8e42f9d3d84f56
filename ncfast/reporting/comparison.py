"""Two reports side by side: one document of values, differences and ratios, and what differs.

``compare.json`` holds one object, schema ``ncfast-compare/1``:

===========  ====================================================================================
key          content
===========  ====================================================================================
schema       ``"ncfast-compare/1"``
created      time of writing, ISO 8601 with offset
command      the command line that made it, or null
labels       [name of A, name of B]; A is the one before, or the base
remarks      sentences: what else is known of the two
reports      [{path, created, command, versions, model, text, settings, tokens} of A, of B]
differences  sentences: what differs between the two measurements besides the numbers
left_out     {key: why}: metrics of both that mean different things
only_in      [[sets of A alone], [sets of B alone]]
sets         {name: section}, for the vocabulary and every word set in both
reference    published measurements beside both vocabularies, or null
verdict      three sentences: what changed, what did not, what cannot be said
undefined    {path: how many values were NaN or infinite}
===========  ====================================================================================

A section has kind, classes [of A, of B], metrics {key: {a, b, difference (B - A), ratio (B / A),
interval_a, interval_b, apart (whether the intervals are), random {a, b, ratio}, matched {a, b,
ratio}, over_random and over_matched (the ratio over that of the controls)}} and distributions
{name: [of A, of B]}. A ratio is null where the values differ in sign or one is zero, and for
metrics without a meaningful zero (``Metric.ratio``).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from ..catalogue import METRICS, explain_metric, ordered_keys
from .document import strict
from .leading import matched_control
from .reference import overlay
from .verdict import verdict
from .wording import short_name

SCHEMA = "ncfast-compare/1"
SHOWN = ("cosines", "norms", "pair_cosine", "pair_log_distance")

# What does not touch the numbers, or is compared on its own.
IGNORED: tuple[str, ...] = ("threads", "device", "batch_size", "definitions", "words", "preset")
IGNORED += ("nc4", "bootstrap", "layers", "layers_head")


def compare_reports(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    labels: Sequence[str] = ("A", "B"),
    paths: Sequence[str | None] = (None, None),
    reference: str | os.PathLike[str] | None = None,
    command: str | None = None,
    remarks: Sequence[str] = (),
) -> dict[str, Any]:
    """Put two reports side by side, in strict JSON values: the one before, and the one after.

    ``paths`` are where they were read from, ``reference`` is a CSV of published measurements to lay
    beside both, and ``remarks`` are sentences on the two. Where no metric of a common set is
    defined in both and means the same, the labels are equal, or the reference has no column we can
    use, a ValueError.
    """
    if labels[0] == labels[1]:
        raise ValueError(f"both reports are called {labels[0]!r}; expected two names")
    left_out = _other_meaning(a, b, labels)
    common = [
        name
        for name, section in a["sets"].items()
        if section["kind"] in ("vocabulary", "words") and name in b["sets"]
    ]
    sets = {name: _compare_section(a["sets"], b["sets"], name, left_out) for name in common}
    compared = {key for section in sets.values() for key in section["metrics"]}
    if all(explain_metric(key).aside for key in compared):
        reasons = "; ".join(dict.fromkeys(left_out.values())) or "no set is in both"
        raise ValueError(
            f"nothing to compare: no metric is defined in both reports and means the same "
            f"({reasons})"
        )
    document = strict(
        {
            "schema": SCHEMA,
            "created": datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds"),
            "command": command,
            "labels": list(labels),
            "remarks": list(remarks),
            "reports": [identify(r, path) for r, path in zip((a, b), paths, strict=True)],
            "differences": [*what_differs(a, b, labels), *_other_classes(a, b, labels, common)],
            "left_out": left_out,
            "only_in": [_missing(a, b), _missing(b, a)],
            "sets": sets,
            "reference": overlay(reference, labels, (a, b)) if reference else None,
        }
    )
    return {**document, "verdict": verdict(document)}


def identify(report: Mapping[str, Any], path: str | None) -> dict[str, Any]:
    """Return what tells a report from others: where it is, its model, text, settings."""
    parts = ("created", "command", "versions", "model", "text", "settings", "tokens")
    return {"path": path, **{part: report.get(part) for part in parts}}


def _missing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Name the sets of one report that the other lacks, controls aside."""
    return [
        name
        for name, section in one["sets"].items()
        if section["kind"] in ("vocabulary", "words") and name not in other["sets"]
    ]


def _other_meaning(
    a: Mapping[str, Any], b: Mapping[str, Any], labels: Sequence[str]
) -> dict[str, str]:
    """Say which keys are other quantities in the two reports."""
    presets = [report["settings"].get("preset") for report in (a, b)]
    chosen = [report["settings"].get("definitions") for report in (a, b)]
    if chosen[0] is None or chosen[1] is None:
        if presets[0] == presets[1]:
            return {}
        keys = {key for r in (a, b) for section in r["sets"].values() for key in section["metrics"]}
        reason = f"presets {presets[0]} and {presets[1]}, and a report does not say what they mean"
        return {key: reason for key in ordered_keys(keys) if not explain_metric(key).aside}
    return {
        key: f"{name.replace('_', ' ')} is {chosen[0].get(name)} in {labels[0]}, "
        f"{chosen[1].get(name)} in {labels[1]}"
        for key, metric in METRICS.items()
        if (name := metric.defined_by) and chosen[0].get(name) != chosen[1].get(name)
    }


def _compare_section(
    a: Mapping[str, Any], b: Mapping[str, Any], name: str, left_out: Mapping[str, str]
) -> dict[str, Any]:
    one, two = a[name], b[name]
    matched = [(matched_control(sets, name) or {}).get("metrics", {}) for sets in (a, b)]
    metrics = {}
    for key in ordered_keys(one["metrics"]):
        values = one["metrics"][key], two["metrics"].get(key)
        if key in left_out or None in values:
            continue
        entry = _pair(key, *values)
        ends = [section.get("intervals", {}).get(key) for section in (one, two)]
        entry |= {"interval_a": ends[0], "interval_b": ends[1], "apart": _apart(*ends)}
        random = [(s.get("random_controls") or {}).get("mean", {}).get(key) for s in (one, two)]
        like = [section.get(key) for section in matched]
        for control, of in (("random", random), ("matched", like)):
            entry[control] = _pair(key, *of) if None not in of else None
            base = entry[control]["ratio"] if entry[control] else None
            entry[f"over_{control}"] = _ratio(base, entry["ratio"])
        metrics[key] = entry
    return {
        "kind": one["kind"],
        "classes": [one["classes_present"], two["classes_present"]],
        "metrics": metrics,
        "distributions": {
            shown: [section["distributions"][shown] for section in (one, two)]
            for shown in SHOWN
            if shown in one["distributions"] and shown in two["distributions"]
        },
    }


def _pair(key: str, a: float, b: float) -> dict[str, Any]:
    ratio = _ratio(a, b) if explain_metric(key).ratio else None
    return {"a": a, "b": b, "difference": b - a, "ratio": ratio}


def _ratio(a: float | None, b: float | None) -> float | None:
    """Return b / a; None where the two are not of one sign, so that "x times" would mislead."""
    if a is None or b is None or not math.isfinite(a) or not math.isfinite(b) or a * b <= 0:
        return None
    return b / a


def _apart(one: Sequence[float | None] | None, two: Sequence[float | None] | None) -> bool | None:
    if one is None or two is None or None in one or None in two:
        return None
    return bool(one[1] < two[0] or two[1] < one[0])  # type: ignore[operator]


def what_differs(a: Mapping[str, Any], b: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    """Say what differs between two measurements besides their numbers, the weightiest first.

    Nothing where only the weights of the models differ.
    """
    first, second = labels
    sentences = []
    for key, what in (
        ("kind", "kinds of model"),
        ("vocab_size", "sizes of the vocabulary, so that classes are not the same,"),
        ("hidden_size", "widths of the features"),
        ("name", "models"),
    ):
        one, two = a["model"].get(key), b["model"].get(key)
        if one != two:
            one, two = (short_name(v) if isinstance(v, str) else v for v in (one, two))
            sentences.append(f"The {what} differ: {_show(one)} and {_show(two)}.")
    sentences += _text_differences(a, b)
    for key in dict.fromkeys((*a["settings"], *b["settings"])):
        one, two = a["settings"].get(key), b["settings"].get(key)
        if one != two and key not in IGNORED:
            name = key.replace("_", " ")
            sentences.append(f"Setting {name}: {_show(one)} in {first}, {_show(two)} in {second}.")
    if a["settings"].get("preset") != b["settings"].get("preset"):
        sentences.append(
            f"The presets differ: {a['settings'].get('preset')} and {b['settings'].get('preset')}."
        )
    for library in ("ncfast", "torch", "transformers"):
        one, two = (report.get("versions", {}).get(library) for report in (a, b))
        if one != two:
            sentences.append(f"Versions of {library}: {one} in {first}, {two} in {second}.")
    return sentences


def _text_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    sentences = []
    for part, what in (("text", "measured texts"), ("held_out", "held-out texts of NC4")):
        one, two = a.get(part), b.get(part)
        if one and two and one["fingerprint"] != two["fingerprint"]:
            names = [", ".join(map(short_name, text["sources"])) for text in (one, two)]
            if names[0] == names[1]:
                sentences.append(f"The {what} differ in tokens or blocks: {names[0]} is in both.")
            else:
                sentences.append(f"The {what} differ: {names[0]} and {names[1]}.")
    return sentences


def _show(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "none" if value is None else str(value)


def _other_classes(
    a: Mapping[str, Any], b: Mapping[str, Any], labels: Sequence[str], common: Sequence[str]
) -> list[str]:
    """Say where a set of one name holds other words in the two reports."""
    sentences = []
    for name in common:
        if a["sets"][name]["kind"] == "vocabulary":
            continue
        counts = [report["sets"][name]["classes_present"] for report in (a, b)]
        words = [_words_seen(report["sets"][name]) for report in (a, b)]
        if words[0] != words[1] or counts[0] != counts[1]:
            sentences.append(
                f"Of the set {name}, {len(words[0]):,} words ({counts[0]:,} classes) were seen in "
                f"{labels[0]} and {len(words[1]):,} ({counts[1]:,}) in {labels[1]}, "
                f"{len(words[0] & words[1]):,} words in both. Distance from a simplex and the "
                "pseudo-inverse forms of NC1 depend on the number of classes."
            )
    return sentences


def _words_seen(section: Mapping[str, Any]) -> set[str]:
    rows = section["per_class"] or []
    return {word for row in rows for word in row["words"] or [row["word"]]}
