"""The report as one HTML page that needs nothing else: no network, no fonts, no libraries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from . import accounting, figures, wording
from .layers import layers_part
from .leading import how_read, leading_tables
from .page_parts import (
    glossary_part,
    leading_part,
    metric_table,
    reference_part,
    scrolling,
    whole_page,
)
from .tables import compare_sets, format_number


def render_page(report: Mapping[str, Any]) -> str:
    """Draw the whole report as a self-contained HTML page.

    Args:
        report: a report document with strict values.

    Returns:
        The text of ``report.html``.

    Raises:
        KeyError: the report lacks a part of the schema.

    Example:
        >>> render_page(report)[:15]  # doctest: +SKIP
        '<!DOCTYPE html>'
    """
    title = f"Neural collapse of {wording.short_name(report['model']['name'])}"
    body = [
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="note">{escape(note)}</p>' for note in report["model"]["notes"]),
        f"<p>{escape(wording.summary(report))}</p>",
        *(f'<p class="soft">{escape(note)}</p>' for note in wording.text_notes(report)),
        _cards(report),
        *leading_part(tables := leading_tables(report)),
        f'<p class="soft">{escape(how_read(tables))}</p>' if how_read(tables) else "",
        _findings(report),
        *_comparison(report),
        *reference_part(report.get("reference")),
        *layers_part(report.get("layers")),
        *_word_sets(report),
        *_vocabulary(report),
        *_left_out(report),
        *glossary_part(k for s in report["sets"].values() for k in s["metrics"]),
        *_facts(report),
    ]
    return whole_page(title, body)


def _cards(report: Mapping[str, Any]) -> str:
    vocabulary = report["sets"]["vocabulary"]
    cards = [
        (format_number(report["tokens"]["kept"]), "tokens measured"),
        (
            format_number(vocabulary["classes_present"]),
            f"of {report['model']['vocab_size']:,} classes seen",
        ),
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
    items = (f"<li><b>{escape(v)}</b><span>{escape(n)}</span></li>" for v, n in cards)
    return f'<ul class="cards">{"".join(items)}</ul>'


def _findings(report: Mapping[str, Any]) -> str:
    sentences = wording.findings(report)
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="findings">{items}</ul>' if items else ""


def _comparison(report: Mapping[str, Any]) -> Iterable[str]:
    table = compare_sets(report)
    yield '<h2 id="side-by-side">Side by side</h2>'
    yield (
        "<p>One column per set of words. A number says little alone: compare a word set with "
        "random words of the vocabulary and with words that are as frequent in this text "
        "(matched).</p>"
    )
    yield metric_table(
        table,
        "Metrics by set; random controls as mean ± standard deviation over the controls.",
        "Side-by-side table",
    )
    yield from (f'<p class="soft">{escape(note)}</p>' for note in accounting.methods(report))


def _word_sets(report: Mapping[str, Any]) -> Iterable[str]:
    for index, (name, section) in enumerate(report["sets"].items()):
        if section["kind"] != "words":
            continue
        yield f'<h2 id="set-{index}">Words of the set “{escape(name)}”</h2>'
        yield f"<p>{escape(_coverage(section))}</p>"
        yield figures.set_figures(report, name, f"set-{index}")
        yield _group_table(section)
        yield _word_table(section, f"words-{index}")


def _coverage(section: Mapping[str, Any]) -> str:
    text = (
        f"{section['classes_present']:,} of {section['classes_requested']:,} classes occur in the "
        f"measured text, {section['tokens']:,} times."
    )
    seen = section.get("seen")
    if seen and seen["share"] is not None:
        text += f" Of their {seen['occurrences']:,} occurrences {seen['share']:.1%} were measured."
    return text


def _group_table(section: Mapping[str, Any]) -> str:
    if not section.get("groups"):
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(group)}</th>'
        f"<td>{format_number(v['classes'])}</td><td>{format_number(v['tokens'])}</td>"
        f"<td>{format_number(v['cosine_mean'])}</td><td>{format_number(v['norm_mean'])}</td></tr>"
        for group, v in section["groups"].items()
    )
    head = "".join(
        f'<th scope="col">{title}</th>'
        for title in ("Classes seen", "Tokens", "Mean cosine", "Mean length of class means")
    )
    return scrolling(
        "<table><caption>Groups of this set; a class of two groups counts in "
        f'both.</caption><thead><tr><th class="text" scope="col">Group</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>",
        "Groups",
    )


WORD_COLUMNS = (
    ("Count", "count"),
    ("Rank", "rank"),
    ("Cosine", "cosine"),
    ("Mean's length", "norm"),
    ("Head row's length", "head_norm"),
    ("Measured", "seen_share"),
)


def _word_table(section: Mapping[str, Any], name: str) -> str:
    rows: Sequence[Mapping[str, Any]] = section["per_class"] or []
    if not rows:
        return ""
    columns = [(title, key) for title, key in WORD_COLUMNS if key in rows[0]]
    head = "".join(
        f'<th scope="col"{style}><button type="button">{escape(title)}</button></th>'
        for title, style in [
            ("Word", ' class="text"'),
            ("Groups", ' class="text"'),
            *((title, "") for title, _ in columns),
        ]
    )
    ordered = sorted(rows, key=lambda row: (-row["count"], row["id"]))
    body = "".join(
        f'<tr><th scope="row">{escape(_word_name(row))}</th>'
        f'<td class="text">{escape(", ".join(row["groups"]))}</td>'
        + "".join(_number_cell(row[key]) for _, key in columns)
        + "</tr>"
        for row in ordered
    )
    return (
        f'<h3>Word by word</h3><label>Find <input type="search" data-filter="{name}"></label>'
        + scrolling(
            f'<table class="sortable" id="{name}"><caption>Rank: place by count among all '
            "classes; cosine: between class mean and head row; measured: share of its "
            "occurrences in the text. Select a column title to sort.</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>",
            "Word table",
            tall=True,
        )
    )


def _word_name(row: Mapping[str, Any]) -> str:
    """Show the words of the set; the vocabulary's own spelling where it differs."""
    words = ", ".join(row["words"])
    return f"{words} ({row['word']})" if words and row["word"] not in row["words"] else row["word"]


def _number_cell(value: float | None) -> str:
    number = "NaN" if value is None else repr(value)
    return f'<td data-value="{number}">{escape(format_number(value))}</td>'


def _vocabulary(report: Mapping[str, Any]) -> Iterable[str]:
    yield '<h2 id="vocabulary">The whole vocabulary</h2>'
    yield figures.vocabulary_figures(report)


def _left_out(report: Mapping[str, Any]) -> Iterable[str]:
    yield '<h2 id="left-out">What was left out</h2>'
    items = "".join(f"<li>{escape(line)}</li>" for line in accounting.dropped_tokens(report))
    yield f"<ul>{items}</ul>"
    for name, section in report["sets"].items():
        for reason, words in accounting.dropped_words(section).items():
            yield (
                f"<details><summary>{escape(name)}: {len(words):,} words: {escape(reason)}"
                f"</summary><p>{escape(', '.join(words))}</p></details>"
            )
    notes = "".join(
        f"<li><code>{escape(', '.join(keys))}</code> of {escape(', '.join(sets))}: "
        f"{escape(reason)}</li>"
        for keys, sets, reason in accounting.number_notes(report)
    )
    if notes:
        yield f"<h3>Notes on the numbers</h3><ul>{notes}</ul>"


def _facts(report: Mapping[str, Any]) -> Iterable[str]:
    yield '<h2 id="how">How it was measured</h2><dl class="facts">'
    for name, value in wording.facts(report):
        yield f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
    yield "</dl>"
