"""``ncfast experiment``: test a claim over seeds, as a protocol fixed before the run says."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .running import speaker, threads, use_threads

EPILOG = """\
examples:
  ncfast experiment experiments/laptop.toml --dry-run
  ncfast experiment experiments/laptop.toml --out laptop
  ncfast experiment experiments/laptop.toml --out laptop --state
  ncfast experiment experiments/laptop.toml --out again --cell bert-tiny/ours/3 --against laptop

Cells that are done are skipped, so that the same command goes on where it was stopped. The folder
gets cells/ (what each run found), report.html, report.md and cells.json.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("protocol", metavar="CONFIG.toml", help="the protocol")
    parser.add_argument("--out", metavar="DIR", help="folder (default: ncfast-experiment-CONFIG)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="list every step, run none")
    what.add_argument(
        "--cell", metavar="MODEL/ARM/SEED", help="run one cell and what it needs, no late endpoint"
    )
    what.add_argument(
        "--state",
        action="store_true",
        help="say what is done and how long the rest takes; run none",
    )
    what.add_argument("--report", action="store_true", help="of the cells done so far; run none")
    parser.add_argument(
        "--data",
        metavar="NAME=DIR",
        action="append",
        default=[],
        help="where the files of a benchmark are; repeat for more",
    )
    parser.add_argument(
        "--against", metavar="DIR", help="with --cell: compare with the cells of a report's folder"
    )
    parser.add_argument("--device", default="cpu", help="where to run (default: cpu)")
    parser.add_argument(
        "--threads", metavar="N", type=threads, help="CPU threads (default: the protocol's)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(options: argparse.Namespace, given: Sequence[str]) -> int:
    """Run the grid or what was asked for, and write the report; 1 if ``--against`` found other
    digits than the published ones as they are printed.
    """
    from ..experiment import ExperimentError, load_protocol, read_grid, run_grid, write_report
    from ..experiment.fitting import told_unfit
    from ..experiment.grid import parse_cell, require_rerun
    from ..experiment.protocol import with_data
    from ..experiment.state import render_state
    from ..experiment.steps import render_steps, tests_of

    if options.against and not options.cell:
        raise ExperimentError("--against compares one cell; expected --cell MODEL/ARM/SEED too")
    protocol = with_data(load_protocol(options.protocol), options.data)
    used = 0 if options.report or options.state else options.threads  # these run nothing
    if used and protocol.threads not in (0, used):
        print(
            f"--threads {used}: the protocol says {protocol.threads}; last digits may differ",
            file=sys.stderr,
        )
    options.threads = options.threads or protocol.threads
    use_threads(options)
    if used:  # what the report says of repeating it
        protocol = replace(protocol, threads=used)
    if options.dry_run:
        print(render_steps(protocol))
        return 0
    folder = Path(options.out or f"ncfast-experiment-{protocol.path.stem}")
    if options.state:
        print(render_state(protocol, folder))
        return 0
    if options.cell:
        cell = parse_cell(protocol, options.cell)
        if options.against:
            require_rerun(protocol, folder, cell, Path(options.against))
        results = run_grid(protocol, folder, cell, options.device, speaker(options))
        for name in results.taken:
            print(f"{name} was there already: it was not run now")
        return _show(cell.name, results[cell.name], options.against, protocol.evaluation.words)
    if options.report:
        results = read_grid(protocol, folder)
        for told in told_unfit(results.unfit):
            print(told)
    else:
        say = speaker(options)
        for line in tests_of(protocol):
            say(line)
        results = run_grid(protocol, folder, None, options.device, say)
    written = write_report(protocol, results, folder)
    print(f"Report: {written['report.html']} (also report.md, cells.json)")
    return 0


def _show(name: str, found: dict[str, Any], against: str | None, words: str) -> int:
    """Print a cell's scores, and whether the published run of it has the same digits."""
    from ..experiment.repeated import compare_cell
    from ..experiment.report import read_cells

    for endpoint, entry in found["endpoints"].items():
        print(f"{endpoint:24} {entry['value']!r}")
    for word_set, metrics in found["nc"].items():
        print(f"{'unc3_std of ' + word_set:24} {metrics['unc3_std']!r}")
    if against is None:
        return 0
    cells = read_cells(Path(against))
    if name not in cells:
        print(f"{against} has no cell {name}")
        return 1
    repeated = compare_cell(name, found, cells[name], words)
    print(repeated.said)
    return 0 if repeated.same else 1
