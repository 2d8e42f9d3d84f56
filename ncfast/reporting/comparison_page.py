"""A comparison of two reports as one HTML page that needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from .comparison_tables import (
    HOW_TO_READ,
    comparison_table,
    notes,
    render_comparison_markdown,
    sides,
)
from .document import write_document
from .figures import CLASS_FIGURES, PAIR_FIGURES, distribution_row, in_words
from .glossary import explain_metric
from .page_parts import figure, glossary_part, legend, metric_table, reference_part, whole_page
from .plots import Point, plot_distributions, plot_ratios
from .tables import format_number
from .verdict import verdict

STYLES = {"random": "random", "matched": "matched"}


def render_comparison_page(document: Mapping[str, Any]) -> str:
    """Draw a comparison as a self-contained HTML page.

    Args:
        document: a comparison document with strict values.

    Returns:
        The text of ``compare.html``.

    Example:
        >>> render_comparison_page(document)[:15]  # doctest: +SKIP
        '<!DOCTYPE html>'
    """
    first, second = document["labels"]
    title = f"Neural collapse: {first} and {second}"
    keys = [key for section in document["sets"].values() for key in section["metrics"]]
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<ol class='verdict'>{''.join(f'<li>{escape(f)}</li>' for f in verdict(document))}</ol>",
        f"<ul>{''.join(f'<li>{escape(side)}</li>' for side in sides(document))}</ul>",
        *(f'<p class="note">{escape(note)}</p>' for note in notes(document)),
        *_ratios(document),
        *_sets(document),
        *reference_part(document["reference"]),
        *glossary_part(keys),
    ]
    return whole_page(title, body)


def _ratios(document: Mapping[str, Any]) -> Iterable[str]:
    """Draw, for each word set, every metric's ratio beside those of its controls."""
    first, second = document["labels"]
    whole = document["sets"].get("vocabulary", {"metrics": {}})["metrics"]
    word_sets = [n for n, section in document["sets"].items() if section["kind"] == "words"]
    for index, name in enumerate(word_sets or ["vocabulary"]):
        rows = []
        for key, entry in document["sets"][name]["metrics"].items():
            if explain_metric(key).family == "Size":
                continue
            found = [("whole vocabulary", whole.get(key), "whole")]
            found += [(f"{c} control", entry[c], style) for c, style in STYLES.items()]
            found += [(name, entry, "words")] if name != "vocabulary" else []
            rows.append((explain_metric(key).title, _points(key, found)))
        drawing = plot_ratios(
            f"ratios-{index}",
            f"{second} over {first}: {name} and its controls",
            "One row per metric; the table below has the same numbers.",
            rows,
            f"{second} / {first} (1: no change)",
        )
        if drawing:
            yield f'<h2 id="ratios-of-{index}">What changed, “{escape(name)}” and its controls</h2>'
            styles = {"whole vocabulary": "whole", "random control": "random"}
            styles |= {"matched control": "matched", name: "words"}
            yield legend(styles if name != "vocabulary" else {"whole vocabulary": "whole"})
            yield figure(
                f"Each metric's value in {second} over that in {first}. Where the dot of the word "
                "set lies apart from the dots of its controls, its words changed otherwise than "
                "other words did; where all dots lie together, the whole model changed. Metrics "
                "whose sign changed, or that are zero, have no ratio and no dot.",
                drawing,
            )


def _points(key: str, found: Iterable[tuple[str, Mapping[str, Any] | None, str]]) -> list[Point]:
    points = []
    for label, entry, style in found:
        if entry and entry["ratio"] is not None:
            text = f"{label}, {key}: {format_number(entry['a'])} to {format_number(entry['b'])}"
            points.append(Point(entry["ratio"], f"{text}, {entry['ratio']:.3g} times", style))
    return points


def _sets(document: Mapping[str, Any]) -> Iterable[str]:
    for index, (name, section) in enumerate(document["sets"].items()):
        title = "The whole vocabulary" if name == "vocabulary" else f"The set “{name}”"
        yield f'<h2 id="set-{index}">{escape(title)}</h2>'
        one, two = section["classes"]
        yield metric_table(
            comparison_table(document, name),
            f"{one:,} classes seen in {document['labels'][0]}, {two:,} in {document['labels'][1]}.",
            f"Table of {name}",
        )
        if section["kind"] != "vocabulary":
            yield f'<p class="soft">{escape(HOW_TO_READ)}</p>'
        for column, caption in _captions():
            yield _distributions(document, name, column, caption, f"set-{index}")


def _captions() -> Iterable[tuple[str, str]]:
    for column, _, title, caption in CLASS_FIGURES:
        yield column, f"{title}. {caption}"
    for column, title, caption in PAIR_FIGURES:
        yield column, f"{title}. {caption}"


def _distributions(
    document: Mapping[str, Any], name: str, column: str, caption: str, identifier: str
) -> str:
    found = document["sets"][name]["distributions"].get(column)
    if not found:
        return ""
    style = "whole" if name == "vocabulary" else "words"
    sections = [{"distributions": {column: one}} for one in found]
    rows = [
        row
        for label, section in zip(document["labels"], sections, strict=True)
        if (row := distribution_row(label, section, column, style)) is not None
    ]
    title = caption.partition(".")[0]
    drawing = plot_distributions(
        f"{identifier}-{column.replace('_', '-')}",
        f"{title}: {name}",
        in_words(rows),
        rows,
        title.lower(),
    )
    return figure(caption, drawing)


def write_comparison(document: Mapping[str, Any], folder: str | os.PathLike[str]) -> Path:
    """Write ``compare.html``, ``compare.md`` and, last, ``compare.json`` into a folder.

    Args:
        document: a comparison document with strict values.
        folder: where to write; made if missing.

    Returns:
        The path of ``compare.json``.

    Raises:
        OSError: a file cannot be written; what was there before is untouched.

    Example:
        >>> write_comparison(document, "before-and-after")  # doctest: +SKIP
    """
    page, markdown = render_comparison_page(document), render_comparison_markdown(document)
    return write_document(folder, "compare", document, markdown, page)
