"""Several models given to ``ncfast measure``: a report of each, and curves over all of them."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..measure import MeasureResult


def measure_several(
    models: Sequence[str],
    texts: Sequence[str],
    folder: Path,
    measure_one: Callable[[str, Sequence[str], Path], MeasureResult],
    options: argparse.Namespace,
    given: Sequence[str],
) -> int:
    """Measure two models or more, each into a folder named after it, and draw them as curves.

    Checkpoints that a trainer saved stand in the order, and at the places, of their steps; others
    in the order given. A model given twice is a DataError.
    """
    from ..measure.several import names_of, steps_of
    from ..reporting.series import build_series, write_series
    from ..reporting.terminal import Terminal

    named = dict(zip(models, names_of(models), strict=True))
    steps, terminal = steps_of(models), Terminal()
    if steps is not None:
        models = [model for _, model in sorted(zip(steps, models, strict=True))]
        steps = sorted(steps)
    names = [named[model] for model in models]
    reports = []
    for name, model in zip(names, models, strict=True):
        if not options.quiet:
            terminal.write(f"== {name} ==")
        reports.append(measure_one(model, texts, folder / name).report)
    command = shlex.join(["ncfast", *given])
    document = build_series(reports, names, steps, names, command)
    path = write_series(document, folder, "series")
    if not options.quiet:
        terminal.series(document, options.all)
    terminal.write(f"Curves: {path.with_suffix('.html')}; a report of each in {folder}")
    return 0
