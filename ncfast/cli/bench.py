"""``ncfast bench``: what each op takes on this machine, beside its bound and its peers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from .running import positive, speaker, threads

EPILOG = """\
examples:
  ncfast bench --rows 30522 --width 768
  ncfast bench demo:bert-tiny --ops pair_stats,linear_cross_entropy --out bench

Times are of this machine's CPU, of what else it does too: close other programs. Peers are timed
where they are installed: torch, torch.compile, cut-cross-entropy, Liger.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="whose head is used: a folder, hub name or demo"
    )
    parser.add_argument("--rows", metavar="V", type=positive, help="rows of a random head")
    parser.add_argument("--width", metavar="D", type=positive, help="its width")
    parser.add_argument(
        "--tokens", metavar="N", type=positive, default=4096, help="of a batch (%(default)s)"
    )
    parser.add_argument("--ops", metavar="NAMES", default="", help="only these, with commas")
    parser.add_argument("--no-peers", action="store_true", help="time ncfast alone")
    parser.add_argument(
        "--repeat", metavar="N", type=positive, default=3, help="timed calls (%(default)s)"
    )
    parser.add_argument("--threads", metavar="N", type=threads, help="CPU threads")
    parser.add_argument("--out", metavar="DIR", help="write bench.html, bench.md and bench.json")
    parser.add_argument("--quiet", action="store_true", help="no table, no progress")


def run(options: argparse.Namespace, given: Sequence[str]) -> int:
    """Time, print, write; 1 where results of somebody were wrong, who then was not timed."""
    from ..bench import BenchSettings, bench, bench_blocks, write_bench
    from ..durable_file import require_folder
    from ..reporting.terminal import Terminal

    if options.out:
        require_folder(options.out)
    head = _head(options)
    rows, width = (options.rows, options.width) if head is None else head.shape
    settings = BenchSettings(
        rows=rows,
        width=width,
        tokens=options.tokens,
        ops=tuple(name.strip() for name in options.ops.split(",") if name.strip()),
        peers=not options.no_peers,
        repeat=options.repeat,
        threads=options.threads,
    )

    document = bench(settings, head, speaker(options)) | {"command": " ".join(["ncfast", *given])}
    terminal = Terminal()
    if not options.quiet:
        terminal.blocks(bench_blocks(document))
    if options.out:
        terminal.write(f"Bench: {write_bench(document, Path(options.out))} (also bench.json)")
    sys.stdout.flush()
    return int(any(one["wrong"] for one in document["absent"]))


def _head(options: argparse.Namespace) -> Any:
    """Return the head [V, D] of the model, or None where sizes are given."""
    sizes = options.rows, options.width
    if options.model is None:
        if None in sizes:
            raise DataError("bench: no MODEL given; expected one, or --rows V with --width D")
        return None
    if sizes != (None, None):
        raise DataError("bench: MODEL has rows and a width; expected no --rows and no --width")
    from ..language import LanguageModel

    model = LanguageModel.load(options.model, progress=not options.quiet)
    return model.head_weight.detach().float().contiguous()
