"""``ncfast compare``: two reports side by side."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EPILOG = """\
A is the report before, or of the base model; B the one after. Where both have controls, the ratio
of a word set is laid over that of its controls: 1 means that its words changed as any words did.

examples:
  ncfast compare reports/bert reports/bert-debiased --out bert-before-after
  ncfast compare step-0 step-100 step-200 --label 0 --label 100 --label 200 --out curves
  ncfast compare before after --names base debiased --reference lc-2024_10_24.csv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("a", metavar="A", help="a report: its folder, or its report.json")
    parser.add_argument("b", metavar="B", help="another report")
    parser.add_argument(
        "more", metavar="C", nargs="*", help="more reports: all of them as curves, A first"
    )
    parser.add_argument(
        "--label",
        metavar="NAME",
        action="append",
        help="what to call a report; once for each, in their order",
    )
    parser.add_argument(
        "--names",
        nargs=2,
        metavar=("A", "B"),
        help="what to call them (default: the models' names, or the folders' names)",
    )
    parser.add_argument("--out", metavar="DIR", help="write compare.json, .md and .html there")
    parser.add_argument(
        "--reference",
        metavar="CSV",
        help="lay both beside published measurements (the CSV of Linguistic Collapse)",
    )
    parser.add_argument("--all", action="store_true", help="print every metric")
    parser.add_argument("--quiet", action="store_true", help="no table")


def run(options: argparse.Namespace, given: Sequence[str]) -> int:
    """Compare, print the tables, say where they were written; return the exit code."""
    from ..reporting import compare_reports, read_report, write_comparison
    from ..reporting.terminal import Terminal

    if options.more:
        return _several([options.a, options.b, *options.more], options, given)
    if options.label:
        options.names = _labels(options, 2)
    reports = read_report(options.a), read_report(options.b)
    labels = options.names or _names(reports, (options.a, options.b))
    document = compare_reports(
        *reports,
        labels=labels,
        paths=(options.a, options.b),
        reference=options.reference,
        command=shlex.join(["ncfast", *given]),
    )
    # Written first: a reader of the table who goes away (| head) must not cost the files.
    path = write_comparison(document, options.out) if options.out else None
    terminal = Terminal()
    if not options.quiet:
        terminal.comparison(document, options.all)
        if not options.all:
            terminal.say("Every other metric: --all, or --out DIR for a page.")
    if path:
        terminal.write(f"Comparison: {path.with_suffix('.html')} (also compare.md, compare.json)")
    return 0


def _several(paths: Sequence[str], options: argparse.Namespace, given: Sequence[str]) -> int:
    """Compare three reports or more: one document with curves."""
    from ..errors import DataError
    from ..measure.several import names_of
    from ..reporting import read_report
    from ..reporting.series import build_series, write_series
    from ..reporting.terminal import Terminal

    if options.names or options.reference:
        given_option = "--names" if options.names else "--reference"
        raise DataError(f"{given_option} with {len(paths)} reports; expected two: use --label")
    labels = _labels(options, len(paths)) if options.label else names_of(paths)
    document = build_series(
        [read_report(path) for path in paths],
        labels,
        paths=paths,
        command=shlex.join(["ncfast", *given]),
    )
    path = write_series(document, options.out, "compare") if options.out else None
    terminal = Terminal()
    if not options.quiet:
        terminal.series(document, options.all)
    if path:
        terminal.write(f"Comparison: {path.with_suffix('.html')} (also compare.md, compare.json)")
    return 0


def _labels(options: argparse.Namespace, count: int) -> list[str]:
    from ..errors import DataError

    if len(options.label) != count:
        raise DataError(f"--label given {len(options.label)} times for {count} reports")
    return list(options.label)


def _names(reports: Sequence[dict[str, Any]], paths: Sequence[str]) -> tuple[str, str]:
    """Find two short names that tell the reports apart."""
    models = [Path(report["model"]["name"]).name for report in reports]
    folders = [
        Path(p).resolve().parent.name if Path(p).suffix == ".json" else Path(p).resolve().name
        for p in paths
    ]
    for one, two in (models, folders):
        if one != two:
            return one, two
    return "A", "B"
