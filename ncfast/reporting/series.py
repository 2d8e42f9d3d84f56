"""Several reports as curves: the checkpoints of a training, or models side by side.

``series.json`` holds one object, schema ``ncfast-series/1``: created, command, labels, axis (what
the curves run over: ``step`` or ``model``), places (where each report stands on it), reports
[{path, created, command, versions, model, text, settings, tokens}], differences (sentences: what
differs between a report and the first, besides the numbers), left_out {key: why}, verdict (three
sentences on the first and the last), and series {name: {kind, classes [one per report], metrics
{key: [values]}, intervals {key: [interval or null]}}} for the vocabulary and every word set and
matched control that all reports have.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..catalogue import LEADING, ordered_keys
from .blocks import Block, Heading, Items, Paragraph
from .comparison import compare_reports, identify
from .curves import Places, curve_figures
from .document import strict, write_document
from .html import render_html
from .markdown import blocks_to_markdown
from .metric_blocks import glossary_blocks, metric_table
from .tables import MISSING, Comparison, Row, format_interval, format_number

SCHEMA = "ncfast-series/1"
KINDS = ("vocabulary", "words", "matched")


def build_series(
    reports: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    steps: Sequence[int] | None = None,
    paths: Sequence[str | None] | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Put two or more reports into one document of strict values, in the order of the curves.

    ``labels`` differ; ``steps`` of the training rise, None places the reports one by one. What does
    not fit, or reports with nothing to compare, is a ValueError.
    """
    paths = [None] * len(reports) if paths is None else list(paths)
    if len(reports) < 2 or len({*labels}) != len(reports) or len(paths) != len(reports):
        raise ValueError(
            f"{len(reports)} reports called {', '.join(labels)}; expected two or more reports, "
            "each with a name of its own"
        )
    if steps is not None and any(b <= a for a, b in pairwise(steps)):
        raise ValueError(f"steps are {list(steps)}; expected rising numbers")
    pairs = [
        compare_reports(reports[0], other, (labels[0], label))
        for other, label in zip(reports[1:], labels[1:], strict=True)
    ]
    left_out = {key: why for pair in pairs for key, why in pair["left_out"].items()}
    # A name that differs is what a series is about; the axis and the table show it.
    differences = dict.fromkeys(
        sentence
        for pair in pairs
        for sentence in pair["differences"]
        if not sentence.startswith("The models differ")
    )
    common = [
        name
        for name, section in reports[0]["sets"].items()
        if section["kind"] in KINDS and all(name in report["sets"] for report in reports)
    ]
    return strict(
        {
            "schema": SCHEMA,
            "created": datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds"),
            "command": command,
            "labels": list(labels),
            "axis": "model" if steps is None else "step",
            "places": list(range(len(reports))) if steps is None else list(steps),
            "reports": [identify(r, path) for r, path in zip(reports, paths, strict=True)],
            "differences": list(differences),
            "left_out": left_out,
            "series": {name: _section(reports, name, left_out) for name in common},
            "verdict": pairs[-1]["verdict"],
        }
    )


def _section(
    reports: Sequence[Mapping[str, Any]], name: str, left_out: Mapping[str, str]
) -> dict[str, Any]:
    sections = [report["sets"][name] for report in reports]
    keys = ordered_keys(key for section in sections for key in section["metrics"])
    keys = [key for key in keys if key not in left_out]
    return {
        "kind": sections[0]["kind"],
        "classes": [section["classes_present"] for section in sections],
        "metrics": {key: [s["metrics"].get(key) for s in sections] for key in keys},
        "intervals": {key: [s.get("intervals", {}).get(key) for s in sections] for key in keys},
    }


def series_table(document: Mapping[str, Any], name: str, everything: bool = True) -> Comparison:
    """Lay one set of all reports side by side.

    >>> section = {"metrics": {"nc3_mean": [0.5, None]}, "intervals": {"nc3_mean": [None] * 2}}
    >>> series_table({"labels": ["a", "b"], "series": {"x": section}}, "x").rows[0].cells
    ('0.5', '-')
    """
    section = document["series"][name]
    rows = [
        Row(
            key,
            tuple(MISSING if value is None else format_number(value) for value in values),
            tuple(format_interval(ends) for ends in section["intervals"][key]),
        )
        for key, values in section["metrics"].items()
        if everything or key in LEADING
    ]
    return Comparison(tuple(document["labels"]), tuple(rows))


def verdict_of_series(document: Mapping[str, Any]) -> list[str]:
    """Say in three sentences what the first and the last of the reports come to.

    >>> verdict_of_series({"labels": ["a", "b"], "verdict": ["Changed: x.", "y", "z"]})[0]
    'From a to b. Changed: x.'
    """
    first, *rest = document["verdict"]
    labels = document["labels"]
    return [f"From {labels[0]} to {labels[-1]}. {first}", *rest]


def render_series_page(document: Mapping[str, Any]) -> str:
    """Draw a series as a self-contained HTML page."""
    return render_html(_title(document), series_blocks(document))


def render_series_markdown(document: Mapping[str, Any]) -> str:
    """Draw a series as Markdown."""
    return blocks_to_markdown(series_blocks(document), _title(document))


def _title(document: Mapping[str, Any]) -> str:
    over = "over training" if document["axis"] == "step" else "of models"
    return f"Neural collapse {over}: {', '.join(document['labels'])}"


def series_blocks(document: Mapping[str, Any]) -> list[Block]:
    """Make the tree of a series, below the title."""
    sets, axis = document["series"], document["axis"]
    places = document["places"]
    labels = [str(step) for step in places] if axis == "step" else document["labels"]
    keys = [key for section in sets.values() for key in section["metrics"]]
    blocks: list[Block] = [
        Items(verdict_of_series(document), ordered=True, style="verdict"),
        *(Paragraph(note, "note") for note in _notes(document)),
        *curve_figures("series", _curves(document), Places(axis, places, labels)),
    ]
    caption = "One column per report; in brackets: bootstrap intervals over the classes."
    for index, name in enumerate(sets):
        blocks.append(Heading(name, id=f"series-of-{index}"))
        blocks.append(metric_table(series_table(document, name), caption, f"Table of {name}"))
    return [*blocks, *glossary_blocks(keys)]


def series_summary(document: Mapping[str, Any], everything: bool = False) -> list[Block]:
    """Make the shorter tree that a terminal shows: the verdict and a table per set."""
    blocks: list[Block] = [Items(verdict_of_series(document))]
    blocks += [Paragraph(note, "note") for note in document["differences"]]
    for name in document["series"]:
        blocks += [Heading(name), metric_table(series_table(document, name, everything))]
    return blocks


def _curves(document: Mapping[str, Any]) -> dict[str, dict[str, list[float | None]]]:
    found = {
        key: {
            name: section["metrics"][key]
            for name, section in document["series"].items()
            if any(v is not None for v in section["metrics"].get(key, ()))
        }
        for key in LEADING
    }
    return {key: sets for key, sets in found.items() if sets}


def _notes(document: Mapping[str, Any]) -> list[str]:
    left_out = [f"Not compared: {key} ({why})." for key, why in document["left_out"].items()]
    return [*document["differences"], *left_out]


def write_series(document: Mapping[str, Any], folder: str | os.PathLike[str], name: str) -> Path:
    """Write ``NAME.html``, ``NAME.md`` and, last, ``NAME.json``, whose path is returned."""
    page, markdown = render_series_page(document), render_series_markdown(document)
    return write_document(folder, name, document, markdown, page)
