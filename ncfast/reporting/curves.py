"""Curves of metrics over something: the layers of a model, the steps of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..catalogue import LEADING
from .axes import Axis, spanning_axis
from .blocks import Block, Figure, Grid, Legend
from .shapes import Point, across_lines, circle, label_text, line, svg, upward_lines
from .tables import format_number
from .verdict import name_of

LEFT, RIGHT, TOP, BOTTOM = 13.0, 96.0, 12, 150


@dataclass(frozen=True)
class Curve:
    """Hold one line of a plot.

    >>> Curve("gender", "words", [(0, 0.2)]).style
    'words'
    """

    label: str  # its name
    style: str  # the class name that colours it
    points: Sequence[tuple[float, float]]  # (x, y) from left to right


@dataclass(frozen=True)
class Places:
    """Hold what curves run over.

    >>> Places("step", [0, 100], ["start", "end"]).title
    'step'
    """

    title: str  # the name of the axis
    values: Sequence[float]  # where each measurement stands
    labels: Sequence[str]  # what each is called


def plot_curves(
    name: str, title: str, description: str, curves: Sequence[Curve], places: Places
) -> str:
    """Draw curves over a shared axis, a dot at every measurement.

    >>> plot_curves("p", "NC3", "", [], Places("layer", [], []))
    ''
    """
    heights = [y for curve in curves for _, y in curve.points]
    if not heights:
        return ""
    across = spanning_axis(list(places.values), LEFT, RIGHT)
    upward = spanning_axis(heights, BOTTOM, TOP, margin=0.06)
    named = dict(zip(places.values, places.labels, strict=True))
    body = [*_across(across, places), *upward_lines(upward, LEFT, 4)]
    for curve in curves:
        body += [
            line(across.at(x), upward.at(y), across.at(x2), upward.at(y2), f"line {curve.style}")
            for (x, y), (x2, y2) in pairwise(curve.points)
        ]
        body += [
            circle(
                across.at(x),
                upward.at(y),
                Point(x, f"{curve.label}, {named[x]}: {format_number(y)}", curve.style),
            )
            for x, y in curve.points
        ]
    body.append(label_text((LEFT + RIGHT) / 2, BOTTOM + 34, places.title, "axis-title"))
    return svg(name, title, description, BOTTOM + 40, body)


def _across(axis: Axis, places: Places) -> list[str]:
    """Label the places that are numbers by round ticks, the others by their own names."""
    if [str(v) for v in places.values] == list(places.labels) or len(places.values) > MANY:
        ticks = [tick for tick in axis.ticks(4) if places.values[0] <= tick <= places.values[-1]]
        return list(across_lines(axis, ticks, TOP, BOTTOM))
    found = []
    for value, label in zip(places.values, places.labels, strict=True):
        found.append(line(axis.at(value), TOP, axis.at(value), BOTTOM, "grid"))
        short = label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}\u2026"
        found.append(label_text(axis.at(value), BOTTOM + 16, short, "tick"))
    return found


MANY, LONGEST = 4, 12  # more places, or longer names, would run into each other


def curve_figures(
    identifier: str,
    values: Mapping[str, Mapping[str, Sequence[float | None]]],
    places: Places,
) -> list[Block]:
    """Draw a small figure per metric, its sets as curves: a legend and a grid, where there are any.

    >>> curve_figures("layers", {}, Places("layer", [], []))
    []
    """
    names = list(dict.fromkeys(name for sets in values.values() for name in sets))
    styles = {name: _style(name, names) for name in names}
    parts = []
    for key, sets in values.items():
        curves = [
            Curve(
                name,
                styles[name],
                [(x, y) for x, y in zip(places.values, found, strict=True) if y is not None],
            )
            for name, found in sets.items()
        ]
        drawing = plot_curves(
            f"{identifier}-{key.replace('_', '-')}",
            f"{name_of(key)} over {places.title}",
            "; ".join(f"{c.label}: {_ends(c)}" for c in curves if c.points),
            curves,
            places,
        )
        asks = f"{LEADING[key].asks}; collapsed: {LEADING[key].collapsed}" if key in LEADING else ""
        if drawing:
            parts.append(Figure(f"{name_of(key)}. {asks}", drawing))
    return [Legend(styles), Grid(parts)] if parts else []


def _ends(curve: Curve) -> str:
    first, last = curve.points[0][1], curve.points[-1][1]
    return f"{format_number(first, 3)} to {format_number(last, 3)}"


def _style(name: str, names: Sequence[str]) -> str:
    if name == "vocabulary":
        return "whole"
    if name.endswith("/matched"):
        return "matched"
    own = [n for n in names if n != "vocabulary" and not n.endswith("/matched")]
    return f"group-{own.index(name) % 6}"
