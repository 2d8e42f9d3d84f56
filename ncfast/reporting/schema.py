"""What ``report.json`` must hold: one schema, checked whenever a report is read.

The schema names every key that the tables, pages and comparisons read, and nothing that a report
of an earlier version lacks: keys that were added later are optional. A key that is not named here
may hold whatever JSON holds, as long as its numbers are finite and it is not nested for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .checks import (
    COUNT,
    FLAG,
    INTERVALS,
    NAME,
    NOTES,
    NUMBER,
    TEXT,
    TEXTS,
    VALUE,
    VALUES,
    Check,
    Fields,
    Histogram,
    List,
    Names,
    OrNull,
    found,
)

KINDS = ("vocabulary", "words", "random", "matched")
KIND = Check(
    "vocabulary, words, random or matched",
    lambda value: value in KINDS,
    {"enum": list(KINDS)},
)
HISTOGRAM = Histogram(
    {"edges": List(NUMBER, "numbers"), "counts": List(COUNT, "counts"), "quantiles": VALUES},
    {"undefined": COUNT, "coincident": COUNT, "outside": COUNT},
)
HISTOGRAMS = Names(HISTOGRAM, "histograms")
GROUP = Fields({"classes": COUNT, "tokens": COUNT, "cosine_mean": VALUE, "norm_mean": VALUE}, {})
ROW = Fields(
    {
        "id": COUNT,
        "word": TEXT,
        "words": TEXTS,
        "groups": TEXTS,
        "count": COUNT,
        "rank": OrNull(COUNT),
        "cosine": VALUE,
        "norm": VALUE,
        "head_norm": VALUE,
    },
    {"seen_share": VALUE},
)
CONTROLS = Fields({"names": TEXTS, "mean": VALUES, "std": VALUES}, {"distributions": HISTOGRAMS})
DROPPED = List(Fields({"word": TEXT, "reason": TEXT}, {}), "words")
SECTION = Fields(
    {
        "kind": KIND,
        "of": OrNull(TEXT),
        "metrics": VALUES,
        "notes": NOTES,
        "classes_present": COUNT,
        "distributions": HISTOGRAMS,
        "per_class": OrNull(List(ROW, "classes")),
    },
    {
        "intervals": INTERVALS,
        "standard_errors": VALUES,
        "classes_requested": COUNT,
        "classes_seen_once": COUNT,
        "tokens": COUNT,
        "words": OrNull(Fields({}, {"dropped": DROPPED})),
        "seen": OrNull(Fields({"share": VALUE}, {"occurrences": COUNT, "measured": COUNT})),
        "groups": Names(GROUP, "groups"),
        "rank_counts": List(List(COUNT, "counts", 2), "ranks with their counts"),
        "random_controls": OrNull(CONTROLS),
        "ratio_to_random": VALUES,
        "ratio_to_random_intervals": INTERVALS,
        "ratio_to_matched": VALUES,
    },
)
TEXT_PART = Fields({"sources": TEXTS, "fingerprint": TEXT}, {"notes": TEXTS})
HELD_OUT = Fields(
    {"sources": TEXTS, "fingerprint": TEXT, "kept": COUNT, "unseen": COUNT, "bias": FLAG},
    {"notes": TEXTS},
)
SETTINGS = Fields(
    {"labels": TEXT, "center": TEXT},
    {
        "preset": OrNull(TEXT),
        "definitions": OrNull(Fields({}, {})),
        "pairs": OrNull(COUNT),
    },
)
BOOTSTRAP = Fields(
    {"repeats": COUNT, "level": NUMBER, "sets": TEXTS, "without": TEXTS}, {"seed": COUNT}
)
PUBLISHED = Fields(
    {
        "formula": TEXT,
        "rows": COUNT,
        "quantiles": Fields(dict.fromkeys(("min", "p05", "p50", "p95", "max"), VALUE), {}),
        "values": VALUES,
        "below": VALUES,
    },
    {},
)
REFERENCE = Fields(
    {"name": TEXT, "rows": COUNT, "metrics": Names(PUBLISHED, "metrics"), "unmapped": NOTES}, {}
)
LAYERS = Fields(
    {
        "count": COUNT,
        "head": TEXT,
        "final_norm": FLAG,
        "points": List(Fields({"layer": COUNT, "sets": Names(VALUES, "sets")}, {}), "layers"),
    },
    {},
)
REPORT = Fields(
    {
        "model": Fields(
            {"name": TEXT, "kind": NAME, "hidden_size": COUNT, "vocab_size": COUNT, "notes": TEXTS},
            {},
        ),
        "text": TEXT_PART,
        "settings": SETTINGS,
        "tokens": Fields({"kept": COUNT, "dropped": Names(COUNT, "counts")}, {}),
        "sets": Names(SECTION, "sets"),
    },
    {
        "created": OrNull(TEXT),
        "command": OrNull(TEXT),
        "versions": Names(OrNull(TEXT), "versions"),
        "timing": VALUES,
        "bootstrap": OrNull(BOOTSTRAP),
        "held_out": OrNull(HELD_OUT),
        "layers": OrNull(LAYERS),
        "reference": OrNull(REFERENCE),
        "notes": TEXTS,
        "undefined": Names(COUNT, "counts"),
    },
)


def check_report(report: Mapping[str, Any]) -> None:
    """Raise a ValueError, beginning with the key, where one is missing or holds something else.

    >>> check_report({"schema": "ncfast-report/1"})
    Traceback (most recent call last):
    ValueError: model is missing; expected an object
    """
    REPORT(report, "")
    sets = report["sets"]
    if "vocabulary" not in sets:
        raise ValueError("sets.vocabulary is missing; expected an object")
    for name, section in sets.items():
        for control in (section.get("random_controls") or {}).get("names", ()):
            if control not in sets:
                raise ValueError(
                    f"sets.{name}.random_controls.names holds {found(control)}; expected names "
                    "of sets of the report"
                )
        if section.get("intervals") and not report.get("bootstrap"):
            raise ValueError(
                f"sets.{name}.intervals is given without bootstrap; expected bootstrap to say how "
                "they were made"
            )


def report_schema() -> dict[str, Any]:
    """Return the schema as JSON Schema, for readers in other languages.

    What JSON Schema cannot say: histograms have rising edges, one more than counts, and a report
    with intervals has a bootstrap.

    >>> report_schema()["properties"]["schema"]
    {'const': 'ncfast-report/1'}
    """
    schema = REPORT.as_json_schema()
    schema["properties"] = {"schema": {"const": "ncfast-report/1"}} | schema["properties"]
    schema["required"] = ["schema", *schema["required"]]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
