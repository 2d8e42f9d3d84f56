"""Plots of a report as inline SVG, drawn from plain numbers.

Every plot has a title and a description for readers who cannot see it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .axes import Axis, spanning_axis
from .shapes import (
    Point,
    across_lines,
    circle,
    label_text,
    line,
    number,
    row_label,
    svg,
    upward_lines,
)

LEFT, RIGHT = 5.0, 95.0
ROW_HEIGHT, LABEL_HEIGHT = 50, 18
RARE = 2000  # a bin with fewer than one in so many values is too low a bar to widen an axis for


@dataclass(frozen=True)
class DistributionRow:
    """Hold one row of a distribution plot.

    >>> DistributionRow("all", [0, 1], [3], {}, "whole").points
    ()
    """

    label: str  # the name at its left
    edges: Sequence[float]  # the edges of the histogram's bins
    counts: Sequence[int]  # one count per bin
    quantiles: dict[str, float | None]  # {p05, p25, p50, p75, p95}; a value may be None
    style: str  # the class name that colours its bars
    points: tuple[Point, ...] = ()  # words drawn one by one under the histogram
    detail: str = ""  # a second, smaller line under the label


def plot_distributions(
    name: str, title: str, description: str, rows: Sequence[DistributionRow], axis_title: str
) -> str:
    """Draw one histogram per row over a shared axis, with quartiles and single words.

    >>> plot_distributions("p", "Cosines", "", [], "cosine")
    ''
    """
    spread = [
        edge
        for row in rows
        for low, high, count in zip(row.edges, row.edges[1:], row.counts, strict=False)
        if count and count * RARE >= sum(row.counts)
        for edge in (low, high)
    ]
    spread += [point.x for row in rows for point in row.points]
    if not spread:
        return ""
    axis = spanning_axis(spread, LEFT, RIGHT, margin=0.02)
    heights = [LABEL_HEIGHT + ROW_HEIGHT + (22 if row.points else 0) for row in rows]
    bottom = 8 + sum(heights)
    body = list(across_lines(axis, axis.ticks(), 6, bottom))
    top = 8.0
    for row, height in zip(rows, heights, strict=True):
        body += _distribution_row(row, axis, top)
        top += height
    body.append(label_text((LEFT + RIGHT) / 2, bottom + 36, axis_title, "axis-title"))
    return svg(name, title, description, bottom + 44, body)


def _distribution_row(row: DistributionRow, axis: Axis, top: float) -> Iterable[str]:
    yield row_label(top + 13, row.label, row.detail)
    base = top + LABEL_HEIGHT + ROW_HEIGHT - 12
    room = ROW_HEIGHT - 14
    largest = max(row.counts, default=0) or 1
    for low, high, count in zip(row.edges, row.edges[1:], row.counts, strict=False):
        if count and axis.low <= low and high <= axis.high:
            x, height = axis.at(low), room * count / largest
            yield (
                f'<rect x="{number(x)}%" y="{number(base - height)}" '
                f'width="{number(max(axis.at(high) - x - 0.1, 0.1))}%" '
                f'height="{number(height)}" class="bar {row.style}">'
                f"<title>{low:.3g} to {high:.3g}: {count:,}</title></rect>"
            )
    yield line(LEFT, base, RIGHT, base, "baseline")
    low_quartile, middle, high_quartile = (row.quantiles.get(q) for q in ("p25", "p50", "p75"))
    if low_quartile is not None and middle is not None and high_quartile is not None:
        yield line(axis.at(low_quartile), base + 4, axis.at(high_quartile), base + 4, "quartiles")
        yield line(axis.at(middle), base - room, axis.at(middle), base + 7, "median")
    for index, point in enumerate(row.points):
        # Three lanes keep neighbours apart; the lane has no meaning and never changes between runs.
        yield circle(axis.at(point.x), base + 13 + 7 * (index % 3), point)


def plot_points(
    name: str,
    title: str,
    description: str,
    points: Sequence[Point],
    axis_titles: tuple[str, str],
    curve: Sequence[tuple[float, float]] = (),
    log: tuple[bool, bool] = (True, True),
) -> str:
    """Draw words as points over two axes, a curve behind them; empty text where there is none.

    Points not above 0 on a logarithmic axis are left out.

    >>> plot_points("p", "Counts", "", [], ("rank", "count"))
    ''
    """
    shown = [p for p in points if (p.x > 0 or not log[0]) and (p.y > 0 or not log[1])]
    path = [(x, y) for x, y in curve if (x > 0 or not log[0]) and (y > 0 or not log[1])]
    if not shown and not path:
        return ""
    left, top, bottom = 13.0, 26, 310
    across = spanning_axis([p.x for p in shown] + [x for x, _ in path], left, 97.0, log=log[0])
    upward = spanning_axis([p.y for p in shown] + [y for _, y in path], bottom, top, log=log[1])
    body = [*across_lines(across, across.ticks(), top, bottom), *upward_lines(upward, left)]
    body += [
        line(across.at(x), upward.at(y), across.at(x2), upward.at(y2), "curve")
        for (x, y), (x2, y2) in pairwise(path)
    ]
    body += [circle(across.at(point.x), upward.at(point.y), point) for point in shown]
    body.append(label_text((left + 97.0) / 2, bottom + 38, axis_titles[0], "axis-title"))
    body.append(label_text(0, 12, axis_titles[1], "axis-title", "start"))
    return svg(name, title, description, bottom + 46, body)


def plot_ratios(
    name: str,
    title: str,
    description: str,
    rows: Sequence[tuple[str, Sequence[Point]]],
    axis_title: str,
) -> str:
    """Draw ratios as points on a logarithmic axis around 1, one row per metric.

    >>> plot_ratios("p", "Ratios", "", [("a", [])], "after / before")
    ''
    """
    shown = [(label, [p for p in points if p.x > 0]) for label, points in rows]
    shown = [(label, points) for label, points in shown if points]
    if not shown:
        return ""
    step = 31
    # Equal room on both sides of 1: a change by 1.2 and one by 1/1.2 are equally far from it.
    reach = max(1.05, *(max(p.x, 1 / p.x) for _, points in shown for p in points)) ** 1.08
    axis = Axis(1 / reach, reach, LEFT, RIGHT, log=True)
    bottom = 8 + step * len(shown)
    body = list(across_lines(axis, _ratio_ticks(reach), 6, bottom))
    body.append(line(axis.at(1), 6, axis.at(1), bottom, "baseline"))
    for index, (label, points) in enumerate(shown):
        top = 8 + step * index
        body.append(row_label(top + 12, label))
        body.append(line(LEFT, top + 21, RIGHT, top + 21, "grid"))
        body += [circle(axis.at(point.x), top + 21, point, 4.5) for point in points]
    body.append(label_text((LEFT + RIGHT) / 2, bottom + 36, axis_title, "axis-title"))
    return svg(name, title, description, bottom + 44, body)


# (largest ratio, ticks): the first row that reaches far enough.
RATIO_TICKS = (
    (1.06, (0.95, 1.0, 1.05)),
    (1.4, (0.8, 0.9, 1.0, 1.1, 1.2)),
    (2.5, (0.5, 0.7, 1.0, 1.4, 2.0)),
    (40.0, (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0)),
)


def _ratio_ticks(reach: float) -> list[float]:
    """Choose round ratios between 1 / reach and reach."""
    for largest, ticks in RATIO_TICKS:
        if reach <= largest:
            return [tick for tick in ticks if 1 / reach <= tick <= reach]
    return Axis(1 / reach, reach, 0, 1, log=True).ticks()
