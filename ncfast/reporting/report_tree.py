"""The blocks of a report, and the page and the Markdown drawn from them.

To add a section: write a function that returns blocks and name it in :func:`report_blocks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import accounting, figures, wording
from .blocks import (
    UNKNOWN,
    Block,
    Cards,
    Cell,
    Column,
    Definition,
    Definitions,
    Details,
    Heading,
    Items,
    PageOnly,
    Paragraph,
    Table,
    table,
)
from .html import render_html
from .layers import layer_blocks
from .leading import leading_tables
from .markdown import blocks_to_markdown
from .metric_blocks import glossary_blocks, leading_blocks, metric_table, reference_blocks
from .tables import compare_sets, format_number


def report_blocks(report: Mapping[str, Any]) -> list[Block]:
    """Make the tree of a report with strict values, below the title.

    >>> report_blocks({"model": {}})
    Traceback (most recent call last):
    KeyError: 'sets'
    """
    keys = [key for section in report["sets"].values() for key in section["metrics"]]
    return [
        *(Paragraph(note, "note") for note in report["model"]["notes"]),
        Paragraph(wording.summary(report)),
        *(Paragraph(note, "soft") for note in wording.text_notes(report)),
        _cards(report),
        *leading_blocks(leading_tables(report)),
        Items(wording.findings(report), style="findings"),
        *_side_by_side(report),
        *reference_blocks(report.get("reference")),
        *layer_blocks(report.get("layers")),
        *_word_sets(report),
        PageOnly([Heading("The whole vocabulary", id="vocabulary")]),
        *figures.vocabulary_figures(report),
        *_left_out(report),
        *glossary_blocks(keys),
        Heading("How it was measured", id="how"),
        Definitions([Definition(*fact) for fact in wording.facts(report)], "facts"),
    ]


def _title(report: Mapping[str, Any]) -> str:
    return f"Neural collapse of {wording.short_name(report['model']['name'])}"


def render_page(report: Mapping[str, Any]) -> str:
    """Draw a report with strict values as a self-contained HTML page."""
    return render_html(_title(report), report_blocks(report))


def render_markdown(report: Mapping[str, Any]) -> str:
    """Draw a whole report as Markdown."""
    return blocks_to_markdown(report_blocks(report), _title(report))


def _cards(report: Mapping[str, Any]) -> Cards:
    vocabulary = report["sets"]["vocabulary"]
    seen = f"of {report['model']['vocab_size']:,} classes seen"
    cards = [
        (format_number(report["tokens"]["kept"]), "tokens measured"),
        (format_number(vocabulary["classes_present"]), seen),
    ]
    for name, section in report["sets"].items():
        if section["kind"] not in ("vocabulary", "words"):
            continue
        ratio = section.get("ratio_to_random") or {}
        for key, what in (
            ("nc3_mean", "mean cosine of class mean and head row"),
            ("unc3_std", "spread of these cosines, (U)NC3"),
        ):
            note = f"{name}: {what}"
            if ratio.get(key) is not None:
                note += f"; {ratio[key]:.2f} times that of random words"
            cards.append((format_number(section["metrics"].get(key), 3), note))
    return Cards(cards)


def _side_by_side(report: Mapping[str, Any]) -> list[Block]:
    return [
        Heading("Side by side", id="side-by-side"),
        Paragraph(
            "One column per set of words. A number says little alone: compare a word set with "
            "random words of the vocabulary and with words that are as frequent in this text "
            "(matched)."
        ),
        metric_table(
            compare_sets(report),
            "Metrics by set; random controls as mean ± standard deviation over the controls.",
            "Side-by-side table",
        ),
        *(Paragraph(note, "soft") for note in accounting.methods(report)),
    ]


def _word_sets(report: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    for index, (name, section) in enumerate(report["sets"].items()):
        if section["kind"] == "words":
            blocks += [
                Heading(f"Words of the set “{name}”", id=f"set-{index}"),
                Paragraph(_coverage(section)),
                *figures.set_figures(report, name, f"set-{index}"),
                *_group_table(section),
                *_word_table(section, f"words-{index}"),
            ]
    return blocks


def _coverage(section: Mapping[str, Any]) -> str:
    text = (
        f"{section['classes_present']:,} of {section['classes_requested']:,} classes occur in the "
        f"measured text, {section['tokens']:,} times."
    )
    seen = section.get("seen")
    if seen and seen["share"] is not None:
        text += f" Of their {seen['occurrences']:,} occurrences {seen['share']:.1%} were measured."
    return text


def _group_table(section: Mapping[str, Any]) -> list[Block]:
    keys = ("classes", "tokens", "cosine_mean", "norm_mean")
    rows = [
        [group, *(format_number(values[key]) for key in keys)]
        for group, values in (section.get("groups") or {}).items()
    ]
    header = ["Group", "Classes seen", "Tokens", "Mean cosine", "Mean norm of class means"]
    caption = "Groups of this set; a class of two groups counts in both."
    return [table(header, rows, caption, "Groups")] if rows else []


WORD_COLUMNS = (
    ("Count", "count"),
    ("Rank", "rank"),
    ("Cosine", "cosine"),
    ("Norm of the mean", "norm"),
    ("Norm of the head row", "head_norm"),
    ("Measured", "seen_share"),
)


def _word_table(section: Mapping[str, Any], identifier: str) -> list[Block]:
    found = section["per_class"] or []
    if not found:
        return []
    shown = [(title, key) for title, key in WORD_COLUMNS if key in found[0]]
    columns = [Column("Word", words=True), Column("Groups", words=True)]
    columns += [Column(title) for title, _ in shown]
    rows = [
        [
            Cell(_word_name(row)),
            Cell(", ".join(row["groups"])),
            *(_number_cell(row[key]) for _, key in shown),
        ]
        for row in sorted(found, key=lambda row: (-row["count"], row["id"]))
    ]
    caption = (
        "Rank: place by count among all classes; cosine: between class mean and head row; "
        "measured: share of its occurrences in the text. Select a column title to sort."
    )
    words = Table(columns, rows, caption, "Word table", search=identifier)
    return [PageOnly([Heading("Word by word", 3), words])]


def _word_name(row: Mapping[str, Any]) -> str:
    """Show the words of the set; the vocabulary's own spelling where it differs."""
    words = ", ".join(row["words"])
    return f"{words} ({row['word']})" if words and row["word"] not in row["words"] else row["word"]


def _number_cell(value: float | None) -> Cell:
    return Cell(format_number(value), order=UNKNOWN if value is None else repr(value))


def _left_out(report: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = [
        Heading("What was left out", id="left-out"),
        Items(accounting.dropped_tokens(report)),
    ]
    for name, section in report["sets"].items():
        for reason, words in accounting.dropped_words(section).items():
            summary = f"{name}: {len(words):,} words: {reason}"
            blocks.append(Details(summary, [Paragraph(", ".join(words))]))
    notes = [
        f"{', '.join(keys)} of {', '.join(sets)}: {reason}"
        for keys, sets, reason in accounting.number_notes(report)
    ]
    return [*blocks, Heading("Notes on the numbers", 3), Items(notes)] if notes else blocks
