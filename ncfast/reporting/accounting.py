"""What a reader of a report has to know: how sure it is, what it rests on, what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..catalogue import explain_metric
from .tables import repeated_keys
from .wording import short_name

DROPPED = {
    "special": "special tokens",
    "unmasked": "not masked, so left as context",
    "last position": "no next token in their block",
    "out of vocabulary": "unknown to the tokenizer or outside the head",
}


def methods(report: Mapping[str, Any]) -> list[str]:
    """Say what intervals, errors and held-out numbers of the table are: sentences, perhaps none.

    >>> methods({"settings": {"pairs": 5000}})[0][:49]
    '± after a value of pairs is its standard error: 5'
    """
    sentences = []
    if boot := report.get("bootstrap"):
        sentences.append(
            f"In brackets: {boot['level']:.0%} intervals, from {boot['repeats']:,} draws of the "
            f"classes with replacement (bootstrap), for {', '.join(boot['sets'])}. They say how "
            "much a value depends on which words are in the set. Intervals of ratios hold the mean "
            "of the controls fixed. There are none for random controls, whose own spread is given "
            f"(±), nor for {' and '.join(boot['without'])}, nor where no brackets stand."
        )
    if pairs := report.get("settings", {}).get("pairs"):
        sentences.append(
            f"± after a value of pairs is its standard error: {pairs:,} pairs of classes were "
            "drawn in sets that have more; others were visited whole."
        )
    if any(section.get("ratio_to_random") for section in report.get("sets", {}).values()):
        sentences.append(
            "No ratio is given of mean log distances and mean cosines between class means, which "
            "have no meaningful zero."
        )
    for key, other in repeated_keys(report).items() if "sets" in report else ():
        sentences.append(
            f"{explain_metric(key).title} ({key}) has no row: here it is the same number as "
            f"{explain_metric(other).title} ({other}) in every set."
        )
    if held := report.get("held_out"):
        sentences.append(_held_out(held))
    return sentences


def brackets(report: Mapping[str, Any]) -> list[str]:
    """Say in a line what stands in brackets and after a sign of uncertainty, or nothing.

    >>> brackets({})
    []
    """
    sentences = []
    if boot := report.get("bootstrap"):
        sentences.append(
            f"In brackets: {boot['level']:.0%} bootstrap intervals over the words of a set."
        )
    if pairs := report.get("settings", {}).get("pairs"):
        sentences.append(f"\u00b1: standard error of an estimate from {pairs:,} drawn pairs.")
    if held := report.get("held_out"):
        sentences.append(_held_out(held))
    return sentences


def _held_out(held: Mapping[str, Any]) -> str:
    unseen = (
        f" {held['unseen']:,} of them are of classes that never occurred in the measured text."
        if held["unseen"]
        else ""
    )
    sources = " and ".join(map(short_name, held["sources"]))
    bias = "with its bias" if held["bias"] else "without a bias"
    return (
        f"NC4 was measured on held-out text, {sources}: {held['kept']:,} token positions.{unseen} "
        f"Head ({bias}) and nearest class mean both choose among the classes seen in the measured "
        "text."
    )


def published(reference: Mapping[str, Any]) -> str:
    """Say what the published measurements are and which of their columns are not used.

    >>> published({"name": "a.csv", "rows": 2, "unmapped": {"n_params": "no metric"}})
    'Published: a.csv, 2 rows. Not used: n_params (no metric).'
    """
    reasons: dict[str, list[str]] = {}
    for column, reason in reference["unmapped"].items():
        reasons.setdefault(reason, []).append(column)
    unused = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
    text = f"Published: {reference['name']}, {reference['rows']:,} rows."
    return f"{text} Not used: {unused}." if unused else text


def dropped_tokens(report: Mapping[str, Any]) -> list[str]:
    """Say how many tokens entered a class and, in a sentence each, why others did not.

    >>> dropped_tokens({"tokens": {"kept": 10, "dropped": {"padding": 3}}})
    ['10 tokens entered a class', '3 did not: padding']
    """
    tokens = report["tokens"]
    return [f"{tokens['kept']:,} tokens entered a class"] + [
        f"{count:,} did not: {DROPPED.get(kind, kind.replace('_', ' '))}"
        for kind, count in tokens["dropped"].items()
        if count
    ]


def dropped_words(section: Mapping[str, Any]) -> dict[str, list[str]]:
    """Group the words a set could not use by the reason; empty for sets that list none.

    >>> dropped_words({"words": {"dropped": [{"word": "fiancé", "reason": "3 pieces"}]}})
    {'3 pieces': ['fiancé']}
    """
    reasons: dict[str, list[str]] = {}
    for entry in (section.get("words") or {}).get("dropped", []):
        reasons.setdefault(entry["reason"], []).append(entry["word"])
    return reasons


def number_notes(report: Mapping[str, Any]) -> list[tuple[list[str], list[str], str]]:
    """Return each note on single numbers once: (metric keys, sets, note), in the sets' order.

    >>> sections = {"a": {"notes": {"x": "few", "y": "few"}}, "b": {"notes": {"x": "few"}}}
    >>> number_notes({"sets": sections})
    [(['x', 'y'], ['a'], 'few'), (['x'], ['b'], 'few')]
    """
    gathered: dict[tuple[str, ...], list[str]] = {}
    for name, section in report["sets"].items():
        reasons: dict[str, list[str]] = {}
        for key, reason in section["notes"].items():
            reasons.setdefault(reason, []).append(key)
        for reason, keys in reasons.items():
            gathered.setdefault((reason, *keys), []).append(name)
    return [(list(keys), sets, reason) for (reason, *keys), sets in gathered.items()]
