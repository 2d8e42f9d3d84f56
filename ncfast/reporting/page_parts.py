"""Parts that the pages of a report and of a comparison share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from . import accounting
from .glossary import FAMILIES, explain_metric, ordered_keys
from .leading import LEADING, LESS, MORE, LeadingRow, LeadingTable
from .page_assets import SCRIPT, STYLE
from .tables import Comparison, reference_rows

# The page must not be able to load anything, whatever a word of the text may contain.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def whole_page(title: str, body: Iterable[str]) -> str:
    """Put parts into a page that needs nothing else.

    Args:
        title: the page's title, as plain text.
        body: the parts, as HTML; empty ones are left out.

    Returns:
        The text of the HTML file.

    Example:
        >>> whole_page("Nothing", [])[:15]
        '<!DOCTYPE html>'
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + f"\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def glossary_part(keys: Iterable[str]) -> Iterable[str]:
    """Explain metrics.

    Args:
        keys: the metrics' keys, in any order, repeats allowed.

    Yields:
        HTML.

    Example:
        >>> list(glossary_part([]))[-1]
        '</dl>'
    """
    yield '<h2 id="glossary">What the numbers mean</h2><dl>'
    for key in ordered_keys(keys):
        entry = explain_metric(key)
        yield (
            f'<dt id="metric-{escape(key)}">{escape(entry.title)} <code>{escape(key)}</code></dt>'
            f'<dd>{escape(entry.meaning)} <span class="soft">{escape(entry.direction)}</span></dd>'
        )
    yield "</dl>"


def metric_table(table: Comparison, caption: str, label: str) -> str:
    """Draw a table of metrics, families apart, every name a link into the glossary.

    Args:
        table: columns and rows.
        caption: what stands above it.
        label: what a screen reader announces.

    Returns:
        The HTML.

    Example:
        >>> metric_table(Comparison((), ()), "Nothing.", "Empty table")[:20]
        '<div class="scroll" '
    """
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in table.columns)
    return scrolling(
        f'<table><caption>{escape(caption)}</caption><thead><tr><th class="text" scope="col">Metric'
        f"</th>{head}</tr></thead><tbody>{''.join(_comparison_rows(table))}</tbody></table>",
        label,
    )


def scrolling(table: str, label: str, tall: bool = False) -> str:
    """Let a table scroll where it is wider than the page, with a shadow where more of it is.

    Args:
        table: the table, as HTML.
        label: what a screen reader announces.
        tall: give it a greatest height too.

    Returns:
        The HTML.

    Example:
        >>> scrolling("<table></table>", "Empty")[:12]
        '<div class="'
    """
    style = "scroll tall" if tall else "scroll"
    head = f'<div class="{style}" tabindex="0" role="region" aria-label="{escape(label)}">'
    return f"{head}{table}</div>"


def leading_part(tables: Iterable[LeadingTable]) -> Iterable[str]:
    """Draw the leading tables of a report.

    Args:
        tables: from ``leading_tables``.

    Yields:
        HTML.

    Example:
        >>> list(leading_part([]))
        []
    """
    for table in tables:
        titles = [*table.columns, *([f"{table.name} words are"] if table.name else [])]
        head = '<th scope="col" class="wide">Collapsed</th>'
        head += "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
        body = "".join(map(_leading_row, table.rows))
        yield scrolling(
            "<table class='leading'><caption>The eight numbers that the papers compare; "
            f"“collapsed” is where a collapsed model stands.</caption><thead><tr>"
            f'<th class="text" scope="col">Metric</th>{head}</tr></thead><tbody>{body}</tbody>'
            "</table>",
            f"Leading metrics {table.name}".strip(),
        )


def _leading_row(row: LeadingRow) -> str:
    reading = LEADING[row.key]
    cells = "".join(
        f"<td>{escape(cell)}{f'<small>{escape(detail)}</small>' if detail else ''}</td>"
        for cell, detail in zip(row.cells, row.details, strict=True)
    )
    style = {MORE: "more", LESS: "less"}.get(row.words, "alike")
    said = f'<td class="said {style}">{escape(row.words)}</td>' if row.words else ""
    return (
        f'<tr><th scope="row"><a href="#metric-{escape(row.key)}">{escape(reading.name)}</a>'
        f'<small class="wide">{escape(reading.asks)}</small>'
        f'<small class="narrow">{escape(reading.collapsed)}</small></th>'
        f'<td class="wide">{escape(reading.collapsed)}</td>'
        f"{cells}{said}</tr>"
    )


def reference_part(reference: Mapping[str, Any] | None) -> Iterable[str]:
    """Draw the table of published measurements.

    Args:
        reference: the ``reference`` part of a report or a comparison, or None.

    Yields:
        HTML; nothing without a reference.

    Example:
        >>> list(reference_part(None))
        []
    """
    if not reference:
        return
    header, rows = reference_rows(reference)
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in header)
    body = "".join(
        f'<tr><th scope="row"><a href="#metric-{escape(key)}">{escape(explain_metric(key).title)}'
        f"</a></th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for key, cells in rows
    )
    yield '<h2 id="published">Beside published measurements</h2>'
    yield (
        "<p>Values of the whole vocabulary beside those of published models. “Above” is the share "
        "of the published values that this model's value is above. Other models, texts and "
        "vocabularies: a scale to read the numbers by, not a contest.</p>"
    )
    yield scrolling(
        f'<table><thead><tr><th class="text" scope="col">Metric</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>",
        "Published measurements",
    )
    yield f'<p class="soft">{escape(accounting.published(reference))}</p>'


def _comparison_rows(table: Comparison) -> Iterable[str]:
    family = ""
    for row in table.rows:
        entry = explain_metric(row.key)
        if entry.family != family:
            family = entry.family
            yield (
                f'<tr class="family"><th colspan="{len(table.columns) + 1}" scope="rowgroup">'
                f"{escape(family)}<span>{escape(FAMILIES[family])}</span></th></tr>"
            )
        cells = "".join(
            f"<td>{escape(cell)}{f'<small>{escape(detail)}</small>' if detail else ''}</td>"
            for cell, detail in zip(row.cells, row.details, strict=True)
        )
        yield (
            f'<tr><th scope="row"><a href="#metric-{escape(row.key)}">{escape(entry.title)}</a>'
            f"<small>{escape(entry.direction)}</small></th>{cells}</tr>"
        )


def figure(caption: str, drawing: str) -> str:
    """Put a caption over a drawing.

    Args:
        caption: plain text; its first sentence is the title.
        drawing: an SVG element.

    Returns:
        The HTML; empty text without a drawing.

    Example:
        >>> figure("Nothing.", "")
        ''
    """
    if not drawing:
        return ""
    title, stop, rest = caption.partition(". ")
    words = f"<b>{escape(title + stop.strip())}</b> {escape(rest)}"
    return f"<figure><figcaption>{words}</figcaption>{drawing}</figure>"


def legend(styles: Mapping[str, str]) -> str:
    """Name the colours of a drawing.

    Args:
        styles: name -> the class name that colours it.

    Returns:
        The HTML; empty text without names.

    Example:
        >>> legend({})
        ''
    """
    items = "".join(
        f'<li><i class="{style}"></i>{escape(group)}</li>' for group, style in styles.items()
    )
    return f'<ul class="legend">{items}</ul>' if items else ""
