"""Blocks as one HTML page that needs nothing else: no network, no fonts, no libraries."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from .blocks import Block, Group, Heading, Table
from .page_assets import SCRIPT, STYLE

if TYPE_CHECKING:
    from jinja2 import Template


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ncfast.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["fold"] = _fold
    environment.tests["group"] = lambda row: isinstance(row, Group)
    return environment.get_template("page.html")


def _fold(table: Table) -> int:
    """Return which column goes under the names where the page is narrow, or 0."""
    return next((i for i, column in enumerate(table.columns) if column.folds), 0)


def render_html(title: str, blocks: Sequence[Block]) -> str:
    """Draw blocks as the text of an HTML file of its own; every text is escaped.

    >>> "<h1>a &lt; b</h1>" in render_html("a < b", [])
    True
    """
    return _template().render(
        title=title, blocks=[Heading(title, 1), *blocks], style=STYLE, script=SCRIPT
    )
