"""A comparison of two reports as text and as Markdown."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from .markdown import comparison_lines, escape_markdown, glossary_lines, reference_lines
from .plain import text_table
from .tables import Comparison, Row, format_interval, format_number
from .verdict import verdict
from .wording import short_name


def comparison_table(
    document: Mapping[str, Any], name: str, brief: bool = False, keys: Container[str] | None = None
) -> Comparison:
    """Lay one set of two reports side by side.

    Args:
        document: a comparison document.
        name: the set.
        brief: mark where intervals lie apart instead of giving them.
        keys: the metrics to show; None shows every one.

    Returns:
        Columns for both values, their difference and ratio, and, where both have controls, the
        controls' ratio and the ratio of ratios.

    Example:
        >>> comparison_table(document, "gender").columns[2]  # doctest: +SKIP
        'difference'
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
    """List what a reader must know before any number.

    Args:
        document: a comparison document.

    Returns:
        Sentences: what differs, which metrics and sets could not be compared.

    Example:
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
    """Say what the two reports are, and what else is known of them.

    Args:
        document: a comparison document.

    Returns:
        One sentence per report, then the remarks.

    Example:
        >>> sides(document)[0]  # doctest: +SKIP
        'before: demo:bert-tiny over demo:text, 190,000 tokens measured'
    """
    sentences = []
    for label, report in zip(document["labels"], document["reports"], strict=True):
        sources = ", ".join(map(short_name, report["text"]["sources"]))
        sentences.append(
            f"{label}: {short_name(report['model']['name'])} over {sources}, "
            f"{report['tokens']['kept']:,} tokens measured"
        )
    return [*sentences, *document.get("remarks", ())]


def render_comparison_text(document: Mapping[str, Any]) -> str:
    """Draw a comparison for a terminal.

    Args:
        document: a comparison document.

    Returns:
        Lines of plain text.

    Example:
        >>> print(render_comparison_text(document))  # doctest: +SKIP
    """
    parts = [*verdict(document), "", *sides(document)]
    parts += [f"Note: {note}" for note in notes(document)]
    for name in document["sets"]:
        parts += ["", f"== {name} ==", text_table(comparison_table(document, name, brief=True))]
    apart = [entry["apart"] for s in document["sets"].values() for entry in s["metrics"].values()]
    if True in apart:
        parts += ["", "* the bootstrap intervals of the two values lie apart"]
    return "\n".join(parts)


def render_comparison_markdown(document: Mapping[str, Any]) -> str:
    """Draw a comparison as Markdown.

    Args:
        document: a comparison document.

    Returns:
        The text of ``compare.md``.

    Example:
        >>> render_comparison_markdown(document).splitlines()[0]  # doctest: +SKIP
        '# Neural collapse: before and after'
    """
    first, second = document["labels"]
    parts = [f"# Neural collapse: {escape_markdown(first)} and {escape_markdown(second)}", ""]
    parts += [f"1. {escape_markdown(sentence)}" for sentence in verdict(document)]
    parts += ["", *(f"- {escape_markdown(sentence)}" for sentence in sides(document))]
    parts += ["", *(f"> **Note.** {escape_markdown(note)}\n" for note in notes(document))]
    keys: Sequence[str] = []
    for name in document["sets"]:
        table = comparison_table(document, name)
        keys = list(dict.fromkeys([*keys, *(row.key for row in table.rows)]))
        parts += ["", f"## {escape_markdown(name)}", "", *comparison_lines(table)]
    parts += ["", escape_markdown(HOW_TO_READ), ""]
    parts += reference_lines(document["reference"])
    parts += ["## What the rows mean", "", *glossary_lines(keys)]
    return "\n".join(parts) + "\n"


HOW_TO_READ = (
    "The last columns compare the change of a word set with that of control words: “ratio of” is a "
    "control's own ratio of the two reports, and “over” is the set's ratio divided by it; 1 means "
    "that the words of the set changed as any other words did. In brackets: bootstrap intervals "
    "over the classes, one report at a time; intervals that lie apart make a difference unlikely "
    "to hang on a few words. Random controls count by their mean."
)
