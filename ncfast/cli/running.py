"""What every command that runs a model for long takes: where to write, how to go on, on what."""

from __future__ import annotations

import argparse
import re


def add_running(
    group: argparse._ArgumentGroup, *, out: str, resume: str, save_every: float, quiet: str
) -> None:
    """Declare the options of a long run.

    Args:
        group: where to declare them.
        out: the name of the folder when none is given, for the help.
        resume: what a run goes on from, for the help.
        save_every: seconds between saves.
        quiet: what is not shown, for the help.

    Example:
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
        type=float,
        default=save_every,
        help="save this often (default: %(default)g)",
    )
    group.add_argument("--device", default="cpu", help="where to run (default: %(default)s)")
    group.add_argument("--threads", metavar="N", type=positive, help="CPU threads")
    group.add_argument("--quiet", action="store_true", help=quiet)


def add_text_column(group: argparse._ArgumentGroup) -> None:
    """Declare the option of every command that reads text.

    Args:
        group: where to declare it.

    Example:
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


def positive(text: str) -> int:
    """Read a whole number above 0, as argparse asks for it.

    Args:
        text: a word of the command line.

    Returns:
        The number.

    Raises:
        argparse.ArgumentTypeError: it is none.

    Example:
        >>> positive("3")
        3
    """
    if not re.fullmatch(r"\d+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
