"""The shapes of a plot as inline SVG.

Across, positions are shares of the drawing's width, in percent: it fills what room there is, and
text keeps its size. Down, they are pixels. Shapes carry class names instead of colours; the page's
style sheet colours them, so one plot serves light and dark.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from .axes import Axis, tick_label

RIGHT = 97.0


@dataclass(frozen=True)
class Point:
    """Hold one word of a plot.

    >>> Point(0.3, "she: 0.300", "group-0").y
    0.0
    """

    x: float  # its value on the horizontal axis
    label: str  # what a pointer over it shows
    style: str  # the class name that colours it
    y: float = 0.0  # its value on the vertical axis, where the plot has one


def number(value: float) -> str:
    """Write a position: two digits after the point, no zeros at the end.

    >>> number(12.5)
    '12.5'
    """
    return f"{value:.2f}".rstrip("0").rstrip(".")


def label_text(x: float, y: float, text: str, style: str, anchor: str = "middle") -> str:
    """Write a text at a position.

    >>> label_text(50, 9, "a", "tick")
    '<text x="50%" y="9" class="tick" text-anchor="middle">a</text>'
    """
    return (
        f'<text x="{number(x)}%" y="{number(y)}" class="{style}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    """Draw a straight line.

    >>> line(0, 1, 100, 1, "grid")
    '<line x1="0%" y1="1" x2="100%" y2="1" class="grid"/>'
    """
    return (
        f'<line x1="{number(x1)}%" y1="{number(y1)}" x2="{number(x2)}%" y2="{number(y2)}" '
        f'class="{style}"/>'
    )


def circle(x: float, y: float, point: Point, radius: float = 3.2) -> str:
    """Draw a dot.

    >>> circle(5, 5, Point(0.3, "she", "words"))[:30]
    '<circle cx="5%" cy="5" r="3.2"'
    """
    return (
        f'<circle cx="{number(x)}%" cy="{number(y)}" r="{radius}" class="dot {point.style}">'
        f"<title>{escape(point.label)}</title></circle>"
    )


def row_label(y: float, text: str, detail: str = "") -> str:
    """Name a row above it, so that a narrow page hides nothing.

    >>> row_label(13, "all")
    '<text x="0" y="13" class="row-label">all</text>'
    """
    more = f'<tspan dx="8" class="row-detail">{escape(detail)}</tspan>' if detail else ""
    return f'<text x="0" y="{number(y)}" class="row-label">{escape(text)}{more}</text>'


def across_lines(axis: Axis, ticks: Iterable[float], top: float, bottom: float) -> Iterable[str]:
    """Draw the grid lines and labels of a horizontal axis.

    >>> len(list(across_lines(Axis(0, 1, 0, 100), [0.5], 0, 10)))
    2
    """
    for tick in ticks:
        yield line(axis.at(tick), top, axis.at(tick), bottom, "grid")
        yield label_text(axis.at(tick), bottom + 16, tick_label(tick), "tick")


def upward_lines(axis: Axis, left: float, count: int = 6) -> Iterable[str]:
    """Draw the grid lines and labels of a vertical axis.

    >>> len(list(upward_lines(Axis(0, 1, 100, 0), 10, 2)))
    6
    """
    for tick in axis.ticks(count):
        yield line(left, axis.at(tick), RIGHT, axis.at(tick), "grid")
        yield label_text(left - 1, axis.at(tick) + 4, tick_label(tick), "tick", "end")


def svg(name: str, title: str, description: str, height: float, body: Iterable[str]) -> str:
    """Wrap shapes into a drawing that a screen reader announces by title and description.

    >>> svg("p", "Nothing", "", 9, [])[:24]
    '<svg width="100%" height'
    """
    return (
        f'<svg width="100%" height="{number(height)}" role="img" '
        f'aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(description)}</desc>{"".join(body)}</svg>'
    )
