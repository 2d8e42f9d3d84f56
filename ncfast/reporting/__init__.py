"""Reports and comparisons: one JSON document each, and the tables and the page drawn from it."""

from .comparison import compare_reports
from .comparison_tree import write_comparison
from .document import (
    SCHEMA,
    measured,
    read_report,
    strict,
    write_atomically,
    write_report,
)
from .plain import render_text
from .report_tree import render_markdown, render_page
from .schema import report_schema
from .tables import compare_sets

__all__ = [
    "SCHEMA",
    "compare_reports",
    "compare_sets",
    "measured",
    "read_report",
    "render_markdown",
    "render_page",
    "render_text",
    "report_schema",
    "strict",
    "write_atomically",
    "write_comparison",
    "write_report",
]
