"""Blocks: every kind is drawn by every writer, and no text of any becomes markup."""

from __future__ import annotations

import copy
import io
import typing
from dataclasses import fields

import pytest

from ncfast.reporting import blocks as b
from ncfast.reporting import compare_reports
from ncfast.reporting.comparison_tree import render_comparison_page
from ncfast.reporting.html import render_html
from ncfast.reporting.markdown import blocks_to_markdown
from ncfast.reporting.report_tree import render_page
from ncfast.reporting.series import build_series, render_series_page
from ncfast.reporting.terminal import Terminal

from .test_page import outline

NASTY = "\"'><script>alert(1)</script>"
CELLS = [b.Cell(NASTY, NASTY, NASTY, NASTY, NASTY), b.Cell(NASTY, NASTY, style=NASTY, order=NASTY)]
COLUMNS = [b.Column(NASTY, words=True), b.Column(NASTY)]
EVERY = {
    b.Heading: b.Heading(NASTY, 2, NASTY),
    b.Paragraph: b.Paragraph(NASTY, NASTY),
    b.Items: b.Items([NASTY], style=NASTY),
    b.Definitions: b.Definitions([b.Definition(NASTY, NASTY, NASTY, NASTY)], NASTY),
    b.Table: b.Table(COLUMNS, [b.Group(NASTY, NASTY), CELLS], NASTY, NASTY, NASTY, NASTY),
    b.Figure: b.Figure(f"{NASTY}. {NASTY}", "<svg></svg>"),
    b.Grid: b.Grid([b.Figure(NASTY, "<svg></svg>")]),
    b.Legend: b.Legend({NASTY: NASTY}),
    b.Cards: b.Cards([(NASTY, NASTY)]),
    b.Details: b.Details(NASTY, [b.Paragraph(NASTY), b.Heading(NASTY, 3)]),
    b.PageOnly: b.PageOnly([b.Paragraph(NASTY)]),
}
OF_THE_PAGE = {b.Figure, b.Grid, b.Legend, b.Cards, b.PageOnly}


def test_every_kind_is_here():
    assert set(EVERY) == set(typing.get_args(b.Block))


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_a_page_shows_every_text_and_no_markup(kind):
    page = render_html(NASTY, [EVERY[kind]])
    found = outline(page)
    assert found.scripts == 1
    assert "<script>alert" not in page
    empty = render_html(NASTY, [])
    texts = [f for f in fields(kind) if f.name != "level"]
    assert page.count("&lt;script&gt;") > empty.count("&lt;script&gt;"), texts


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_markdown_and_a_terminal_show_what_is_not_of_the_page(kind):
    stream = io.StringIO()
    Terminal(stream, rich=False).blocks([EVERY[kind]])
    for text in (blocks_to_markdown([EVERY[kind]]), stream.getvalue()):
        assert ("alert" in text) == (kind not in OF_THE_PAGE)
    assert "<script>" not in blocks_to_markdown([EVERY[kind]]).replace("\\<script\\>", "").replace(
        f"`{NASTY}`", ""
    )


def poisoned(value, keep=("kind", "of", "schema", "created")):
    """Put markup into every string of a document, names of sets, groups and words too."""
    if isinstance(value, dict):
        return {
            key if _is_ours(key) else f"{key}{NASTY}": one if key in keep else poisoned(one)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [poisoned(one) for one in value]
    return f"{value}{NASTY}" if isinstance(value, str) else value


def _is_ours(key: str) -> bool:
    return not any(mark in key for mark in "/<") and key not in (
        "gender",
        "female",
        "male",
        "brand",
    )


@pytest.fixture
def outside(report) -> dict:
    """Return the report with markup in every string that comes from outside."""
    found = poisoned(report)
    for section in found["sets"].values():
        if section["of"]:
            section["of"] += NASTY
    # A control is known by the end of its name.
    for name in [name for name in found["sets"] if name.startswith("gender/matched")]:
        found["sets"][f"gender{NASTY}/matched"] = found["sets"].pop(name)
    assert sum(NASTY in name for name in found["sets"]) >= len(report["sets"]) - 1
    return found


def test_no_string_from_outside_becomes_markup(outside):
    other = copy.deepcopy(outside)
    labels = (f"a{NASTY}", f"b{NASTY}")
    document = compare_reports(outside, other, labels, remarks=[NASTY], command=NASTY)
    series = build_series([outside, other, outside], [*labels, f"c{NASTY}"])
    pages = render_page(outside), render_comparison_page(document), render_series_page(series)
    for page in pages:
        assert outline(page).scripts == 1
        assert "<script>alert" not in page
        assert "&lt;script&gt;" in page
