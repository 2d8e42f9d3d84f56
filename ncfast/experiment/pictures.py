"""Pictures of an experiment: dots per seed, collapse against fairness, where words stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..reporting.axes import spanning_axis
from ..reporting.page_assets import STYLE
from ..reporting.shapes import (
    RIGHT,
    Point,
    across_lines,
    circle,
    label_text,
    line,
    row_label,
    svg,
    upward_lines,
)

__all__ = [
    "alone",
    "collapse_against",
    "group_styles",
    "paired_dots",
    "styles_of",
    "word_places",
]

STYLES = (*(f"group-{n}" for n in range(6)), "random", "matched", "whole", "words", "ink")
ROW = 38
NAMED = ("he", "she", "man", "woman", "father", "mother")  # labelled on the map of words


def styles_of(arms: Sequence[str]) -> dict[str, str]:
    """Return the class of the style sheet that colours each arm."""
    return {arm: STYLES[number % len(STYLES)] for number, arm in enumerate(arms)}


def paired_dots(model: Mapping[str, Any], endpoint: str) -> str:
    """Draw an endpoint of every seed in every arm of a found model, the dots of a seed joined.

    Empty where nothing has been run.
    """
    arms = [arm for arm in model["arms"] if _values(arm, endpoint)]
    if not arms or model["base"] is None:
        return ""
    styles = styles_of([arm["name"] for arm in model["arms"]])
    base = model["base"]["endpoints"][endpoint]["value"]
    every = [v for arm in arms for v in _values(arm, endpoint).values()]
    axis = spanning_axis([*every, *([] if base is None else [base])], 2, RIGHT)
    bottom = ROW * len(arms) + 8
    body = list(across_lines(axis, axis.ticks(), 8, bottom))
    if base is not None:
        body += [line(axis.at(base), 8, axis.at(base), bottom, "baseline")]
        body += [label_text(axis.at(base), bottom + 30, "base", "tick")]
    places = [_values(arm, endpoint) for arm in arms]
    for number, (arm, values) in enumerate(zip(arms, places, strict=True)):
        y = ROW * number + 32
        body.append(
            row_label(y - 12, arm["name"], f"mean {sum(values.values()) / len(values):.3g}")
        )
        if number:
            before = places[number - 1]
            body += [
                line(axis.at(before[s]), y - ROW, axis.at(values[s]), y, "grid")
                for s in values
                if s in before
            ]
        body += [
            circle(
                axis.at(v), y, Point(v, f"{arm['name']}, seed {s}: {v:.4g}", styles[arm["name"]])
            )
            for s, v in values.items()
        ]
    title = f"{endpoint} by arm and seed"
    means = ", ".join(f"{a['name']} {a['endpoints'][endpoint]['mean']:.3g}" for a in arms)
    return svg(f"dots-{endpoint}", title, f"Means: {means}", bottom + 40, body)


def collapse_against(model: Mapping[str, Any], endpoint: str) -> str:
    """Draw an endpoint against (U)NC3 of the fairness words, a dot for each run, if any."""
    styles = styles_of([arm["name"] for arm in model["arms"]])
    points = [
        (arm["unc3"][seed], value, f"{arm['name']}, seed {seed}", styles[arm["name"]])
        for arm in model["arms"]
        for seed, value in _values(arm, endpoint).items()
        if arm["unc3"].get(seed) is not None
    ]
    if not points:
        return ""
    across = spanning_axis([p[0] for p in points], 8, RIGHT)
    upward = spanning_axis([p[1] for p in points], 280, 12)
    body = [*across_lines(across, across.ticks(), 12, 280), *upward_lines(upward, 8)]
    body.append(label_text(RIGHT, 314, "(U)NC3 of the fairness words", "axis-title", "end"))
    body += [
        circle(across.at(x), upward.at(y), Point(x, f"{text}: {x:.4g}, {y:.4g}", style))
        for x, y, text, style in points
    ]
    title = f"{endpoint} against (U)NC3"
    return svg(f"against-{endpoint}", title, f"{len(points)} runs", 320, body)


def group_styles(model: Mapping[str, Any]) -> dict[str, str]:
    """Return the class of the style sheet that colours each group of words."""
    found = next(iter(model["maps"].values()))["groups"]
    names = [*sorted(set(found) - {"both"}), *({"both"} & set(found))]
    return {name: "whole" if name == "both" else f"group-{n}" for n, name in enumerate(names)}


def word_places(model: Mapping[str, Any]) -> str:
    """Draw where the fairness words stand in the base and in the primary arms, if a cell says
    it.
    """
    maps, body = model["maps"], []
    if not maps:
        return ""
    styles, bottom, gap = group_styles(model), 300, 3.0
    every = {key: [v for m in maps.values() for v in m[key]] for key in ("gender", "cosine")}
    upward = spanning_axis(every["cosine"], bottom, 34)
    width = (RIGHT - 5 - gap * (len(maps) - 1)) / len(maps)
    spreads = []
    for number, (name, found) in enumerate(maps.items()):
        left = 5 + number * (width + gap)
        across = spanning_axis(every["gender"], left, left + width)
        for tick in upward.ticks():
            body.append(line(left, upward.at(tick), left + width, upward.at(tick), "grid"))
            if not number:
                body.append(label_text(left - 1, upward.at(tick) + 4, f"{tick:g}", "tick", "end"))
        body += across_lines(across, across.ticks(4), 34, bottom)
        spread = float(np.std(found["cosine"], ddof=1))
        spreads.append(f"{name} {spread:.3f}")
        body.append(label_text(left, 18, f"{name}: (U)NC3 {spread:.3f}", "row-label", "start"))
        for word, group, x, y in zip(
            *(found[key] for key in ("words", "groups", "gender", "cosine")), strict=True
        ):
            text = f"{word} ({group}): {x:.3f}, {y:.3f}"
            body.append(circle(across.at(x), upward.at(y), Point(x, text, styles[group])))
            if word in NAMED:
                late = across.at(x) > left + 0.7 * width  # no room to the right
                place, anchor = (-0.7, "end") if late else (0.7, "start")
                at = across.at(x) + place
                body.append(label_text(at, upward.at(y) - 4, word, "tick", anchor))
    title = "Where words stand, before and after"
    return svg("words", title, f"(U)NC3: {', '.join(spreads)}", bottom + 26, body)


def alone(drawing: str, width: int = 760) -> str:
    """Return a drawing of this module as an SVG file of its own, for a README."""
    paper = '<rect width="100%" height="100%" style="fill: var(--paper)"/>'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" style="font-family: sans-serif" width="{width}"'
    )
    sized = drawing.replace('<svg width="100%"', head, 1)
    return sized.replace(">", f"><style>{STYLE}</style>{paper}", 1) + "\n"


def _values(arm: Mapping[str, Any], endpoint: str) -> dict[str, float]:
    return {s: v[endpoint] for s, v in arm["values"].items() if v.get(endpoint) is not None}
