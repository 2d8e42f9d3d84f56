"""The figures of a report page: which numbers of the document go into which plot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .blocks import Block, Figure, Legend
from .leading import matched_control
from .plots import DistributionRow, Point, plot_distributions, plot_points
from .tables import format_number

GROUP_COLOURS = 6

CLASS_FIGURES = (
    (
        "cosines",
        "cosine",
        "Cosine of class mean and head row",
        "1: the class mean points exactly along the head's row for that word. A narrow "
        "histogram means a small (U)NC3.",
    ),
    (
        "norms",
        "norm",
        "Norm of the class mean",
        "Distance of a word's mean feature vector from the center; equal norms are part of NC2.",
    ),
)
PAIR_FIGURES = (
    (
        "pair_cosine",
        "Cosine of two class means",
        "Each pair of words counts once. Collapsed means meet at equal angles: one narrow peak, "
        "just below 0. A tail to the right is pairs of words whose means point the same way. The "
        "axis ends where bars become too low to be seen.",
    ),
    (
        "pair_log_distance",
        "Log inverse distance of two class means",
        "Each pair counts once; the mean of this histogram is GNC2. Further right: the directions "
        "of two words lie closer together; -0.35 is a right angle, 0.69 is half a unit apart. The "
        "axis ends where bars become too low to be seen.",
    ),
)


def set_figures(report: Mapping[str, Any], name: str, identifier: str) -> list[Block]:
    """Draw the figures of one word set: its cosines, its norms, its cosines against counts.

    Drawings are empty if nothing of the set was seen.
    """
    styles = _group_styles(report["sets"][name])
    parts: list[Block] = []
    for column, key, title, caption in CLASS_FIGURES:
        rows = _rows(report, name, column, key, styles)
        words = (
            f"{title}. {caption} Bars: how many classes; vertical line: median; thick line: "
            "middle half; dots: single words, in three lanes to keep them apart."
        )
        parts.append(_distributions(identifier, name, column, title, words, rows=rows))
    for column, title, caption in PAIR_FIGURES:
        rows = _rows(report, name, column, "", styles)
        words = f"{title}. {caption}{_left_out(report, name, column)}"
        parts.append(_distributions(identifier, name, column, title, words, rows=rows))
    parts.insert(1, _cosine_against_count(report, name, identifier, styles))
    matched = f"{name}/matched" in report["sets"]
    shown = styles | ({"matched control": "matched"} if matched else {})
    return [Legend(shown), *parts]


def _distributions(
    identifier: str, name: str, column: str, title: str, caption: str, rows: list[DistributionRow]
) -> Figure:
    drawing = plot_distributions(
        f"{identifier}-{column.replace('_', '-')}",
        f"{title}: {name} and its controls",
        in_words(rows),
        rows,
        title.lower(),
    )
    return Figure(caption, drawing)


def _left_out(report: Mapping[str, Any], name: str, column: str) -> str:
    """Say which pairs a histogram of pairs lacks."""
    parts = []
    for label in ("vocabulary", name):
        found = report["sets"][label]["distributions"].get(column, {})
        for key, why in (("coincident", "coincide"), ("outside", "lie outside the plot")):
            if found.get(key):
                parts.append(f"{found[key]:,} pairs of {label} {why}")
    return f" Not shown: {'; '.join(parts)}." if parts else ""


def vocabulary_figures(report: Mapping[str, Any]) -> list[Block]:
    """Draw the figure of the whole vocabulary, counts against class rank; empty if none was
    seen.
    """
    whole = report["sets"]["vocabulary"]
    points, colours = [], {}
    sets = [(name, s) for name, s in report["sets"].items() if s["kind"] == "words"]
    for index, (name, section) in enumerate(sets):
        colours[name] = f"group-{index % GROUP_COLOURS}"
        points += [
            Point(
                row["rank"],
                f"{row['word']}: rank {row['rank']:,}, {row['count']:,} times",
                colours[name],
                y=row["count"],
            )
            for row in section["per_class"] or []
            if row["rank"] is not None
        ]
    curve = [(rank, count) for rank, count in whole.get("rank_counts", [])]
    drawing = plot_points(
        "rank-counts",
        "Count of a class against its rank",
        "Counts of the seen classes in falling order; words of the sets as dots on the curve.",
        points,
        ("rank of the class", "count"),
        curve=curve,
    )
    caption = (
        "Count against rank, both on logarithmic axes. Classes at the right rest on few tokens: "
        "their means are noisy, and the vocabulary's numbers include them all."
    )
    return [Legend(colours), Figure(caption, drawing)]


def _group_styles(section: Mapping[str, Any]) -> dict[str, str]:
    return {
        group: f"group-{index % GROUP_COLOURS}"
        for index, group in enumerate(section.get("groups") or {})
    }


def _style(row: Mapping[str, Any], styles: Mapping[str, str]) -> str:
    # A word of several groups, or of none, belongs to no single colour.
    return styles.get(row["groups"][0], "words") if len(row["groups"]) == 1 else "words"


def _label(row: Mapping[str, Any], key: str) -> str:
    groups = f" ({', '.join(row['groups'])})" if row["groups"] else ""
    return f"{row['word']}{groups}: {format_number(row[key])}, seen {row['count']:,} times"


def _rows(
    report: Mapping[str, Any], name: str, column: str, key: str, styles: Mapping[str, str]
) -> list[DistributionRow]:
    sets = report["sets"]
    section = sets[name]
    points = tuple(
        Point(row[key], _label(row, key), _style(row, styles))
        for row in section["per_class"] or []
        if key and row[key] is not None
    )
    rows = [
        distribution_row("whole vocabulary", sets["vocabulary"], column, "whole"),
        distribution_row(name, section, column, "words", points),
    ]
    if other := matched_control(sets, name):
        rows.append(distribution_row("matched control", other, column, "matched"))
    if controls := section.get("random_controls"):
        label = f"{len(controls['names'])} random controls"
        rows.append(distribution_row(label, controls, column, "random"))
    return [row for row in rows if row is not None]


def distribution_row(
    label: str,
    section: Mapping[str, Any],
    column: str,
    style: str,
    points: tuple[Point, ...] = (),
) -> DistributionRow | None:
    """Make the row of a plot from a section; None where it has no such distribution.

    >>> distribution_row("all", {"distributions": {}}, "norms", "whole") is None
    True
    """
    found = section["distributions"].get(column)
    if found is None:
        return None
    unit = "pairs" if "coincident" in found else "classes"
    detail = f"{sum(found['counts']):,} {unit}"
    return DistributionRow(
        label,
        found["edges"],
        found["counts"],
        found["quantiles"],
        style,
        points=points,
        detail=detail,
    )


def in_words(rows: list[DistributionRow]) -> str:
    """Describe a plot of distributions for readers who cannot see it.

    >>> in_words([])
    ''
    """
    return "; ".join(
        f"{row.label}: median {format_number(row.quantiles.get('p50'), 3)}, middle half "
        f"{format_number(row.quantiles.get('p25'), 3)} to "
        f"{format_number(row.quantiles.get('p75'), 3)}"
        for row in rows
    )


def _cosine_against_count(
    report: Mapping[str, Any], name: str, identifier: str, styles: Mapping[str, str]
) -> Figure:
    """Show whether rare words are less aligned, beside the matched control where there is one."""
    control = matched_control(report["sets"], name) or {}
    points = [
        Point(row["count"], f"matched control {_label(row, 'cosine')}", "matched", y=row["cosine"])
        for row in control.get("per_class") or []
        if row["cosine"] is not None
    ]
    points += [
        Point(row["count"], _label(row, "cosine"), _style(row, styles), y=row["cosine"])
        for row in report["sets"][name]["per_class"] or []
        if row["cosine"] is not None
    ]
    drawing = plot_points(
        f"{identifier}-cosine-count",
        f"Cosine against count: {name}",
        "One dot per class; its count across, its cosine upward.",
        points,
        ("count (logarithmic)", "cosine"),
        log=(True, False),
    )
    return Figure(
        "Cosine against count, one dot per class. The mean of a rare word is noisy: "
        "compare a word set with its control at equal counts.",
        drawing,
    )
