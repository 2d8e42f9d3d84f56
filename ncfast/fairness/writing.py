"""``evaluation.json``, the items' file beside it, and the page."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..reporting import write_atomically
from ..reporting.page_assets import STYLE
from .evaluation import Evaluation

__all__ = ["HEADLINES", "render_page", "render_text", "write_evaluation"]

# What a table shows first; ICAT is in none of them (a 4.4 M-parameter model scores 73.95).
HEADLINES = {
    "stereoset": ("lm", "ss", "ss_distance"),
    "crows-pairs": ("metric", "log_ratio"),
    "seat": ("effect_size", "p_value"),
    "bec-pro": ("gap", "absolute_gap"),
}
COLUMNS = ("benchmark", "subset", "variant", "metric")


def write_evaluation(evaluation: Evaluation, folder: Path) -> dict[str, Path]:
    """Write ``evaluation.json``, ``evaluation.html`` and ``items.jsonl``, each whole or not at all.

    Args:
        evaluation: what was found.
        folder: made where there is none.

    Returns:
        The files by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"model": model, "benchmark": key, **record.to_json()}, allow_nan=False)
        for (model, key), records in evaluation.records.items()
        for record in records
    ]
    texts = {
        "items.jsonl": "\n".join(lines) + "\n",
        "evaluation.html": render_page(evaluation.document),
        "evaluation.json": json.dumps(evaluation.document, indent=1, allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return {name: folder / name for name in texts}


def headline(row: Mapping[str, Any]) -> bool:
    """Tell whether a row belongs in the first table."""
    metrics = HEADLINES.get(row["benchmark"])
    return row["metric"] != "icat" and (metrics is None or row["metric"] in metrics)


def show(row: Mapping[str, Any]) -> str:
    """Return a value with its interval.

    Example:
        >>> show({"value": 50.537, "low": 47.4, "high": 53.46})
        '50.54 [47.40, 53.46]'
    """
    if row["value"] is None:
        return "undefined"
    text = f"{row['value']:.4g}" if abs(row["value"]) < 10 else f"{row['value']:.2f}"
    if row["low"] is None or row["high"] is None:
        return text
    style = ".2f" if abs(row["value"]) >= 10 else ".3g"
    return f"{text} [{row['low']:{style}}, {row['high']:{style}}]"


def table_of_scores(
    document: Mapping[str, Any], every: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: a score a row, a model a column.

    Args:
        document: of ``evaluation.json``.
        every: not only the headline metrics.

    Returns:
        Column titles, and the cells as text.
    """
    models = list(dict.fromkeys(row["model"] for row in document["scores"]))
    cells: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for row in document["scores"]:
        if every or headline(row):
            cells.setdefault(tuple(row[c] for c in COLUMNS), {})[row["model"]] = row
    rows = []
    for key, by_model in cells.items():
        shown = [show(by_model[m]) if m in by_model else "" for m in models]
        rows.append([*key, *shown, _notes(by_model, len(models))])
    return [*COLUMNS, *models, "note"], rows


def _notes(by_model: Mapping[str, Mapping[str, Any]], models: int) -> str:
    """Return the notes of a score, each with the models it is about unless it is about all."""
    about: dict[str, list[str]] = {}
    for model, row in by_model.items():
        for note in filter(None, row["note"].split("; ")):
            about.setdefault(note, []).append(model)
    return "; ".join(
        note if len(names) == models else f"{', '.join(names)}: {note}"
        for note, names in about.items()
    )


def table_of_differences(
    document: Mapping[str, Any], every: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the paired differences."""
    rows = []
    for row in document["differences"]:
        if not every and not headline(row):
            continue
        p = row.get("p_value")
        test = f"p {p:.3g} ({row['test']})" if p is not None else row.get("note", "")
        changed = "" if row.get("changed") is None else str(row["changed"])
        pair = f"{row['second']} - {row['first']}"
        rows.append([*(row[c] for c in COLUMNS), pair, show(row), changed, test])
    return [*COLUMNS, "difference", "value", "verdicts changed", "test"], rows


def render_text(document: Mapping[str, Any], width: int = 0, every: bool = False) -> str:
    """Return the tables as plain text.

    Args:
        document: of ``evaluation.json``.
        width: columns of the terminal; 0: as wide as the tables are.
        every: not only the headline metrics.

    Returns:
        Lines.
    """
    parts = [_text_table(*table_of_scores(document, every), width)]
    header, rows = table_of_differences(document, every)
    if rows:
        parts.append("Paired differences, the same items and the same resampled clusters:")
        parts.append(_text_table(header, rows, width))
    for entry in document["skipped"]:
        who = f" for {entry['model']}" if "model" in entry else ""
        parts.append(f"not scored{who}: {entry['benchmark']}: {entry['reason']}")
    parts.append(
        "Intervals: 95 %, bootstrap of clusters (target terms, professions, occupations, pairs) or "
        "of items within them, whichever is wider. No headroom: within two standard errors of "
        "unbiased."
    )
    return "\n\n".join(parts)


def _text_table(header: Sequence[str], rows: Iterable[Sequence[str]], width: int) -> str:
    rows = [list(map(str, row)) for row in rows]
    if not rows:
        return "no scores"
    sizes = [max(len(r[i]) for r in [list(header), *rows]) for i in range(len(header))]
    if width:  # the last column, a note, gives way first
        rest = width - sum(sizes[:-1]) - 2 * (len(sizes) - 1)
        sizes[-1] = max(8, min(sizes[-1], rest))
    lines = []
    for row in [list(header), ["-" * n for n in sizes], *rows]:
        cells = [
            cell if len(cell) <= n else cell[: n - 1] + "~"
            for cell, n in zip(row, sizes, strict=True)
        ]
        lines.append("  ".join(c.ljust(n) for c, n in zip(cells, sizes, strict=True)).rstrip())
    return "\n".join(lines)


def render_page(document: Mapping[str, Any]) -> str:
    """Return a self-contained page.

    Args:
        document: of ``evaluation.json``.

    Returns:
        HTML with every text escaped.
    """
    names = ", ".join(m["name"] for m in document["models"])
    parts = [
        f"<h1>Fairness benchmarks: {html.escape(names)}</h1>",
        '<p class="soft">95 % intervals by bootstrap of clusters (target terms, professions, '
        "occupations, pairs) or of items within them, whichever is wider. &ldquo;No "
        "headroom&rdquo;: the score lies within two standard errors of an unbiased "
        "model&rsquo;s, so nothing there can be shown to improve.</p>",
        _picture(document),
        "<h2>Scores</h2>",
        _html_table(*table_of_scores(document)),
    ]
    header, rows = table_of_differences(document)
    if rows:
        parts += ["<h2>Paired differences</h2>", _html_table(header, rows)]
    parts += ["<h2>Every score</h2>", _html_table(*table_of_scores(document, every=True))]
    notes = [f"{m['name']}: {note}" for m in document["models"] for note in (m.get("notes") or [])]
    notes += [
        f"Not scored{' for ' + e['model'] if 'model' in e else ''}: {e['benchmark']}: {e['reason']}"
        for e in document["skipped"]
    ]
    notes += [f"{key}: {source}" for key, source in document["sources"].items()]
    parts += ["<h2>Notes</h2>", *(f"<p>{html.escape(note)}</p>" for note in notes)]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(names)}</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th class="text">{html.escape(c)}</th>' for c in header)
    lines = [
        "<tr>" + "".join(f'<td class="text">{html.escape(str(c))}</td>' for c in row) + "</tr>"
        for row in rows
    ]
    body = "".join(lines)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _picture(document: Mapping[str, Any]) -> str:
    """Draw each headline score that has an unbiased value of 50, with its interval."""
    rows = [
        r
        for r in document["scores"]
        if (r["benchmark"], r["metric"])
        in (("stereoset", "ss"), ("crows-pairs", "metric"), ("winobias", "pro_share"))
        and None not in (r["value"], r["low"], r["high"])
    ]
    if not rows:
        return ""
    left, wide, step = 330, 420, 24
    high = step * len(rows) + 46

    def x(value: float) -> float:
        return left + wide * min(max(value, 0.0), 100.0) / 100

    marks = [
        f'<line x1="{x(50):.1f}" x2="{x(50):.1f}" y1="8" y2="{high - 34}" stroke="var(--soft)" '
        'stroke-dasharray="4 3"/>'
    ]
    for n, r in enumerate(rows):
        y = 20 + step * n
        name = html.escape(f"{r['model']}: {r['benchmark']} {r['subset']} {r['variant']}"[-52:])
        marks.append(
            f'<text x="{left - 10}" y="{y + 4}" text-anchor="end" font-size="12" '
            f'fill="currentColor">{name}</text>'
            f'<line x1="{x(r["low"]):.1f}" x2="{x(r["high"]):.1f}" y1="{y}" y2="{y}" '
            'stroke="var(--accent)" stroke-width="2"/>'
            f'<circle cx="{x(r["value"]):.1f}" cy="{y}" r="4" fill="var(--accent)"/>'
        )
    for tick in (0, 25, 50, 75, 100):
        marks.append(
            f'<text x="{x(tick):.1f}" y="{high - 16}" text-anchor="middle" font-size="12" '
            f'fill="currentColor">{tick}</text>'
        )
    title = "Share of stereotypical choices in per cent, with its 95 % interval; 50 is unbiased"
    return (
        f'<figure class="scroll"><svg viewBox="0 0 {left + wide + 20} {high}" width="100%" '
        f'style="min-width:640px" role="img" aria-label="{title}">{"".join(marks)}</svg>'
        f"<figcaption>{title}</figcaption></figure>"
    )
