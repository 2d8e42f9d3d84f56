"""What every command that runs a model for long takes: where to write, how to go on, on what."""

from __future__ import annotations

import argparse
import math
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from ..running.options import MAX_THREADS

MAX_COUNT = 2**53  # a larger count is a slip, and overflows what counts with it


def add_running(
    group: argparse._ArgumentGroup, *, out: str, resume: str, save_every: float, quiet: str
) -> None:
    """Declare the options of a long run; ``out``, ``resume`` and ``quiet`` are words of their help.

    >>> parser = argparse.ArgumentParser()
    >>> group = parser.add_argument_group("running")
    >>> add_running(group, out="report", resume="the file", save_every=60.0, quiet="no bar")
    >>> parser.parse_args(["--threads", "2"]).threads
    2
    """
    group.add_argument("--out", metavar="DIR", help=f"folder to write (default: {out})")
    again = group.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help=f"go on from {resume}")
    again.add_argument("--force", action="store_true", help="overwrite what the folder holds")
    group.add_argument(
        "--save-every",
        metavar="SECONDS",
        type=number,
        default=save_every,
        help="save this often (default: %(default)g)",
    )
    group.add_argument("--device", default="cpu", help="where to run (default: %(default)s)")
    group.add_argument("--threads", metavar="N", type=threads, help="CPU threads")
    group.add_argument("--quiet", action="store_true", help=quiet)


def add_text_column(group: argparse._ArgumentGroup) -> None:
    """Declare the option of every command that reads text.

    >>> parser = argparse.ArgumentParser()
    >>> add_text_column(parser.add_argument_group("what"))
    >>> parser.parse_args(["--text-column", "body"]).text_column
    'body'
    """
    group.add_argument(
        "--text-column",
        metavar="NAME",
        help="column that holds the text, in tables, records and data sets that have several "
        "(default: text, or the only one of text)",
    )


def given_settings(kind: type[Any], options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a job's settings that a command line gives, by name.

    >>> from ..measure import MeasureSettings
    >>> given_settings(MeasureSettings, argparse.Namespace(seed=3, save_every=9.0, quiet=True))
    {'save_every_seconds': 9.0, 'progress': False, 'seed': 3}
    """
    found = {"save_every_seconds": options.save_every, "progress": not options.quiet}
    given = vars(options)
    return found | {f.name: given[f.name] for f in fields(kind) if f.name in given}


def use_threads(options: argparse.Namespace) -> None:
    """Let torch use the CPU threads that were asked for."""
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)


def speaker(options: argparse.Namespace) -> Callable[[str], None]:
    """Return what says a line on stderr, or nothing under ``--quiet``."""

    def say(text: str) -> None:
        if not options.quiet:
            print(f"ncfast: {text}", file=sys.stderr, flush=True)

    return say


def again(given: Sequence[str]) -> str:
    """Return the command that goes on where one was stopped.

    >>> again(["measure", "model", "a text", "--force"])
    "ncfast measure model 'a text' --resume"
    """
    kept = [word for word in given if word not in ("--force", "--resume")]
    return shlex.join(["ncfast", *kept, "--resume"])


def positive(text: str) -> int:
    """Read a whole number above 0, as argparse asks for it."""
    return _whole(text, 1, "above 0")


def threads(text: str) -> int:
    """Read a number of threads, as argparse asks for it.

    >>> threads("2")
    2
    """
    return _whole(text, 1, "above 0", MAX_THREADS)


def count(text: str) -> int:
    """Read a whole number, 0 or more, as argparse asks for it."""
    return _whole(text, 0, "of 0 or more")


def _whole(text: str, least: int, expected: str, most: int = MAX_COUNT) -> int:
    if not re.fullmatch(r"[0-9]{1,40}", text) or int(text) < least:
        raise argparse.ArgumentTypeError(f"{_short(text)} is not a whole number {expected}")
    if int(text) > most:
        raise argparse.ArgumentTypeError(f"{_short(text)} is too large; expected at most {most}")
    return int(text)


def number(text: str) -> float:
    """Read a finite number, as argparse asks for it.

    >>> number("1e-3")
    0.001
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{_short(text)} is not a finite number")
    return value


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
