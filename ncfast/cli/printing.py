"""What ``ncfast measure`` prints when it is done."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def print_report(report: dict, folder: Path | None, options: argparse.Namespace) -> None:
    """Print the tables of a report, what they rest on, and where the files are, if anywhere."""
    from ..reporting.accounting import brackets, dropped_tokens, methods
    from ..reporting.terminal import Terminal
    from ..reporting.wording import warnings

    terminal = Terminal()
    if not options.quiet:
        terminal.write()
        for note in warnings(report):
            terminal.say(f"Note: {note}")
        terminal.say("; ".join(dropped_tokens(report)) + ".")
        terminal.report(report, everything=options.all)
        for note in methods(report) if options.all else brackets(report):
            terminal.say(note)
        if not options.all:
            terminal.say("Every other metric: --all, or the report.")
        terminal.say(_times(report["timing"]))
    if folder is not None:
        terminal.write(f"Report: {folder / 'report.html'} (also report.md, report.json)")
    sys.stdout.flush()


def _times(timing: dict) -> str:
    parts = []
    if timing["tokens_per_second"] and timing["statistics_share"] is not None:
        parts.append(
            f"{timing['tokens']:,} tokens in {timing['seconds']:.1f} s "
            f"({timing['tokens_per_second']:,.0f} a second); the statistics took "
            f"{timing['statistics_share']:.1%} of the model's own time"
        )
    for key, what in (("metrics", "metrics"), ("bootstrap", "intervals"), ("held_out", "NC4")):
        if timing[f"{key}_seconds"]:
            parts.append(f"{what} {timing[f'{key}_seconds']:.1f} s")
    return "; ".join(parts)
