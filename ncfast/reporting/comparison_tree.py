"""The blocks of a comparison of two reports, and the page, Markdown and text drawn from them."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..catalogue import explain_metric
from .blocks import Block, Figure, Heading, Items, Legend, PageOnly, Paragraph
from .document import write_document
from .figures import CLASS_FIGURES, PAIR_FIGURES, distribution_row, in_words
from .html import render_html
from .markdown import blocks_to_markdown
from .metric_blocks import glossary_blocks, metric_table, reference_blocks
from .plots import Point, plot_distributions, plot_ratios
from .tables import Comparison, Row, format_interval, format_number
from .verdict import verdict
from .wording import short_name

STYLES = {"random": "random", "matched": "matched"}
HOW_TO_READ = (
    "The last columns compare the change of a word set with that of control words: “ratio of” is a "
    "control's own ratio of the two reports, and “over” is the set's ratio divided by it; 1 means "
    "that the words of the set changed as any other words did. In brackets: bootstrap intervals "
    "over the classes, one report at a time; intervals that do not overlap make it unlikely that a "
    "difference depends on a few words. Random controls count by their mean."
)


def comparison_blocks(document: Mapping[str, Any]) -> list[Block]:
    """Make the tree of a comparison, below the title."""
    keys = [key for section in document["sets"].values() for key in section["metrics"]]
    return [
        *_head(document),
        PageOnly(list(_ratios(document))),
        *_sets(document),
        *reference_blocks(document["reference"]),
        *glossary_blocks(keys),
    ]


def comparison_summary(
    document: Mapping[str, Any], keys: Container[str] | None = None
) -> list[Block]:
    """Make the shorter tree of a terminal: what it comes to, what was compared, a table per set."""
    tables = {name: comparison_table(document, name, True, keys) for name in document["sets"]}
    blocks = _head(document)
    for name, found in tables.items():
        blocks += [Heading(name), metric_table(found)]
    if any("*" in row.details for found in tables.values() for row in found.rows):
        blocks.append(Paragraph("* the bootstrap intervals of the two values do not overlap"))
    return blocks


def _head(document: Mapping[str, Any]) -> list[Block]:
    return [
        Items(verdict(document), ordered=True, style="verdict"),
        Items(sides(document)),
        *(Paragraph(note, "note") for note in notes(document)),
    ]


def comparison_table(
    document: Mapping[str, Any], name: str, brief: bool = False, keys: Container[str] | None = None
) -> Comparison:
    """Lay one set of two reports side by side: both values, their difference and ratio.

    Where both have controls, also the controls' ratio and the ratio of ratios.
    """
    first, second = document["labels"]
    metrics = document["sets"][name]["metrics"]
    controls = [c for c in ("random", "matched") if any(e[c] for e in metrics.values())]
    columns = [first, second, "difference", f"{second} / {first}"]
    columns += [f"ratio of {control}" for control in controls]
    columns += [f"over {control}" for control in controls]
    rows = []
    for key, entry in metrics.items():
        if keys is not None and key not in keys:
            continue
        cells = [format_number(entry["a"]), format_number(entry["b"])]
        cells += [format_number(entry["difference"], 3), format_number(entry["ratio"], 3)]
        cells += [format_number((entry[c] or {}).get("ratio"), 3) for c in controls]
        cells += [format_number(entry[f"over_{c}"], 3) for c in controls]
        details = [format_interval(entry[end]) for end in ("interval_a", "interval_b")]
        details += [{True: "intervals apart", False: "overlap", None: ""}[entry["apart"]]]
        if brief:
            details = ["", "", "*" if entry["apart"] else ""]
        details += [""] * (len(cells) - len(details))
        rows.append(Row(key, tuple(cells), tuple(details)))
    return Comparison(tuple(columns), tuple(rows))


def notes(document: Mapping[str, Any]) -> list[str]:
    """List what a reader must know first: what differs, which metrics and sets were left out.

    >>> notes({"labels": ["a", "b"], "differences": [], "left_out": {}, "only_in": [["x"], []]})
    ['Only in a: x.']
    """
    sentences = list(document["differences"])
    reasons: dict[str, list[str]] = {}
    for key, reason in document["left_out"].items():
        reasons.setdefault(reason, []).append(key)
    sentences += [f"Not compared: {', '.join(k)} ({reason})." for reason, k in reasons.items()]
    for label, names in zip(document["labels"], document["only_in"], strict=True):
        if names:
            sentences.append(f"Only in {label}: {', '.join(names)}.")
    return sentences


def sides(document: Mapping[str, Any]) -> list[str]:
    """Say what the two reports are, and what else is known of them."""
    sentences = []
    for label, report in zip(document["labels"], document["reports"], strict=True):
        sources = ", ".join(map(short_name, report["text"]["sources"]))
        sentences.append(
            f"{label}: {short_name(report['model']['name'])} over {sources}, "
            f"{report['tokens']['kept']:,} tokens measured"
        )
    return [*sentences, *document.get("remarks", ())]


def _title(document: Mapping[str, Any]) -> str:
    first, second = document["labels"]
    return f"Neural collapse: {first} and {second}"


def render_comparison_page(document: Mapping[str, Any]) -> str:
    """Draw a comparison as a self-contained HTML page: the text of ``compare.html``."""
    return render_html(_title(document), comparison_blocks(document))


def render_comparison_markdown(document: Mapping[str, Any]) -> str:
    """Draw a comparison as Markdown: the text of ``compare.md``."""
    return blocks_to_markdown(comparison_blocks(document), _title(document))


def _ratios(document: Mapping[str, Any]) -> Iterable[Block]:
    """Draw, for each word set, every metric's ratio beside those of its controls."""
    first, second = document["labels"]
    whole = document["sets"].get("vocabulary", {"metrics": {}})["metrics"]
    word_sets = [n for n, section in document["sets"].items() if section["kind"] == "words"]
    for index, name in enumerate(word_sets or ["vocabulary"]):
        rows = []
        for key, entry in document["sets"][name]["metrics"].items():
            if explain_metric(key).aside:
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
            yield Heading(f"What changed, “{name}” and its controls", id=f"ratios-of-{index}")
            styles = {"whole vocabulary": "whole", "random control": "random"}
            styles |= {"matched control": "matched", name: "words"}
            yield Legend(styles if name != "vocabulary" else {"whole vocabulary": "whole"})
            yield Figure(
                f"Each metric's value in {second} over that in {first}. Where the dot of the word "
                "set is away from the dots of its controls, its words changed otherwise than "
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


def _sets(document: Mapping[str, Any]) -> Iterable[Block]:
    for index, (name, section) in enumerate(document["sets"].items()):
        yield Heading(name, id=f"set-{index}")
        one, two = section["classes"]
        first, second = document["labels"]
        caption = f"{one:,} classes seen in {first}, {two:,} in {second}."
        yield metric_table(comparison_table(document, name), caption, f"Table of {name}")
        if section["kind"] != "vocabulary":
            yield Paragraph(HOW_TO_READ, "soft")
        for column, title in _captions():
            yield _distributions(document, name, column, title, f"set-{index}")


def _captions() -> Iterable[tuple[str, str]]:
    for column, _, title, caption in CLASS_FIGURES:
        yield column, f"{title}. {caption}"
    for column, title, caption in PAIR_FIGURES:
        yield column, f"{title}. {caption}"


def _distributions(
    document: Mapping[str, Any], name: str, column: str, caption: str, identifier: str
) -> Figure:
    found = document["sets"][name]["distributions"].get(column) or []
    style = "whole" if name == "vocabulary" else "words"
    sections = [{"distributions": {column: one}} for one in found]
    rows = [
        row
        for label, section in zip(document["labels"], sections, strict=False)
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
    return Figure(caption, drawing)


def write_comparison(document: Mapping[str, Any], folder: str | os.PathLike[str]) -> Path:
    """Write ``compare.html``, ``compare.md`` and, last, ``compare.json``, whose path is returned.

    The folder is made if missing; where a file cannot be written, what was there before is
    untouched.
    """
    page, markdown = render_comparison_page(document), render_comparison_markdown(document)
    return write_document(folder, "compare", document, markdown, page)
