"""The command line: one file per command; this one finds the command and reports errors."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..huge_pages import ask_for_huge_pages

COMMANDS = {
    "measure": "measure neural collapse of a language model over a text",
    "compare": "put two reports side by side: before and after, base and debiased",
    "finetune": "train a language model with neural-collapse terms and say what changed",
    "evaluate": "score fairness benchmarks of language models, with intervals",
    "experiment": "test a claim over seeds, as a protocol fixed before the run says",
    "plan": "say what training a model would take, before anything is loaded or rented",
    "bench": "time every op on this machine, beside its bound and what others make of it",
    "doctor": "say which backends exist, what each op will use, and why",
}

# What several processes can share; the others would do the same thing several times over.
IN_SEVERAL_PROCESSES = ("measure", "finetune")
FAILURE, INTERRUPTED = 2, 130
LONGEST = 1000  # characters of a message: a file name of 5,000 or a page of a library is no help


class Parser(argparse.ArgumentParser):
    """Parse arguments; say what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and where help is, and exit with code 2.

        >>> Parser(prog="ncfast").error("no command")
        Traceback (most recent call last):
        SystemExit: 2
        """
        self.exit(FAILURE, f"{self.prog}: error: {plain(message)} (see {self.prog} --help)\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        if _processes()[1] == 0:  # the others are given the same words
            super()._print_message(message, file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command: the words after ``ncfast``, by default those of the process.

    The exit code is 0 when done, 1 when a check failed, 2 for an error with one line on stderr, 130
    when interrupted. A fault of the program itself keeps its traceback.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    _never_lose_a_line()
    ask_for_huge_pages()
    parser = _parser(given[:1])
    for word in given:
        if not _can_be_a_name(word):  # of a file: every word may be one
            parser.error(f"{word!r} holds a character that no name of a file can have")
        if word.startswith("--") and word.endswith("=--"):  # argparse would hand on an empty list
            parser.error(f"argument {word.removesuffix('=--')}: expected a value, given '--'")
    if given.count("--") > 1:  # argparse would take the second for a list
        parser.error(f"'--' is given {given.count('--')} times; expected once")
    options = parser.parse_args(given)
    launched, rank = _processes()
    if launched > 1 and options.command not in IN_SEVERAL_PROCESSES:
        parser.error(
            f"{options.command} in {launched} processes; expected one, without torchrun: only "
            f"{' and '.join(IN_SEVERAL_PROCESSES)} share their work"
        )
    command = importlib.import_module(f"ncfast.cli.{options.command}")
    try:
        return command.run(options, given)
    except KeyboardInterrupt as stop:
        if rank:  # a request to stop reaches all ranks, and the first one says what was saved
            return INTERRUPTED
        print(f"ncfast {options.command}: {plain(str(stop)) or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone (ncfast ... | head): nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except Exception as error:
        if os.environ.get("NCFAST_DEBUG", "0") not in ("", "0") or not _is_expected(error):
            raise
        if type(error).__name__ == "SaidByAnother":  # the first rank says it
            return FAILURE
        print(f"ncfast {options.command}: error: {one_line(error)}", file=sys.stderr)
        return FAILURE


def _can_be_a_name(word: str) -> bool:
    """Tell whether a word could come from a system's command line at all."""
    try:
        return b"\0" not in os.fsencode(word)
    except UnicodeEncodeError:
        return False


def _processes() -> tuple[int, int]:
    """Return how many processes were launched together, and which of them this is."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    return launched, int(os.environ.get("RANK", "0")) if launched > 1 else 0


def _never_lose_a_line() -> None:
    """Escape what a terminal's encoding lacks: a file name or a sign must not cost the work."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _parser(first: Sequence[str]) -> Parser:
    parser = Parser(
        prog="ncfast",
        description="Neural-collapse metrics for language models, over the whole vocabulary.",
        epilog="NCFAST_DEBUG=1 shows the traceback of every error.",
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        entry = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
        # Only the command that is called is imported, so that help and errors come at once.
        if name in first:
            module = importlib.import_module(f"ncfast.cli.{name}")
            module.add_arguments(entry)
            entry.formatter_class = argparse.RawDescriptionHelpFormatter
            entry.epilog = getattr(module, "EPILOG", None)
    return parser


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from ncfast import __version__

        if _processes()[1] == 0:
            print(f"ncfast {__version__}")
        parser.exit()


def _is_expected(error: Exception) -> bool:
    """Tell a user's mistake or a machine's trouble from a fault of the program.

    ncfast says what is wrong with values and settings by ValueError and its kin; a ValueError from
    inside another library is a fault we did not foresee, and its traceback is needed.
    """
    from ncfast.errors import BackendError, DataError
    from ncfast.language.errors import LanguageError

    if isinstance(error, (OSError, MemoryError, BackendError, DataError, LanguageError)):
        return True
    return isinstance(error, ValueError) and _raised_here(error)


def _raised_here(error: Exception) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    package = Path(__file__).resolve().parent.parent
    return bool(frames) and package in Path(frames[-1].filename).resolve().parents


def one_line(error: BaseException) -> str:
    """Say an error in one line without control characters, or its type where it says nothing.

    >>> one_line(ValueError("a\\n b")), one_line(ValueError())
    ('a b', 'ValueError')
    """
    if isinstance(error, OSError) and error.strerror:
        return plain(f"{error.strerror}: {error.filename}" if error.filename else error.strerror)
    if isinstance(error, MemoryError):
        return plain(f"out of memory {error}".strip())
    return plain(str(error)) or type(error).__name__


def plain(text: str) -> str:
    """Write text on one line, with nothing in it that a terminal would obey.

    White space is joined, every other unprintable character escaped, and the middle left out where
    it is longer than ``LONGEST`` characters.

    >>> plain("no file \\x1b[31mred\\n here")
    'no file \\\\x1b[31mred here'
    """
    text = " ".join(text.split())
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
