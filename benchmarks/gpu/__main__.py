"""``python -m benchmarks.gpu``: build, test and measure the GPU kernels in nine minutes or fewer.

Phases run one after the other, each in a process with a time limit; a phase that fails is written
down, the others still run, and the exit code is 1. Everything found lies in --out: summary.md, and
a CSV and a log for each phase, or with --archive summary.md, results.csv and run.tar.gz alone.
--dry-run does the same on a CPU with tiny sizes and the emulators.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..run import RESULTS
from . import phases
from .predict import predictions, render

PREDICTED = RESULTS / "gpu_predicted.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 1 where a phase failed or ran out of time."""
    names = [phase.name for phase in phases.PHASES]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="a new folder for what is found")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU: plumbing, no times")
    parser.add_argument("--minutes", type=float, default=0.0, help="for everything; default 9")
    parser.add_argument("--archive", action="store_true", help="three files come out, not thirty")
    parser.add_argument("--only", nargs="+", choices=names, default=[], metavar="PHASE")
    parser.add_argument("--predict", action="store_true", help=f"write {PREDICTED.name} and stop")
    given = parser.parse_args(arguments)
    if given.predict:
        PREDICTED.write_text(render(list(predictions())), encoding="utf-8")
        print(f"stored: {PREDICTED}")
        return 0
    if given.minutes and given.minutes < 1:
        parser.error(f"--minutes is {given.minutes}; expected at least 1")
    if given.out is None:
        parser.error("--out: expected a folder")
    import torch

    if not given.dry_run and not torch.cuda.is_available():
        parser.error("no CUDA device is here; --dry-run tries the plumbing on the CPU")
    only = tuple(given.only)
    return phases.run(given.out.absolute(), given.dry_run, only, given.minutes, given.archive)


if __name__ == "__main__":
    sys.exit(main())
