"""Carries results over a commit that only renamed what a fault's function names.

A file in which one name takes the place of another everywhere, and stood nowhere in it before, does
what it did: whoever noticed a fault there still does.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace

from .scratch import Outcome
from .table import ROOT, Fault, faults

TOKEN = re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|[A-Za-z_]\w*|\S')
NAME = re.compile(r"[A-Za-z_]\w*")


def tokens(text: str, python: bool) -> list[str]:
    """Return the tokens of a text without its comments and docstrings.

    >>> tokens("x = a('b c')  # why", python=True)
    ['x', '=', 'a', '(', "'b c'", ')']
    """
    comment = r'(?s)""".*?"""|#[^\n]*' if python else r"//.*"
    return TOKEN.findall(re.sub(comment, "", text))


def names(text: str, python: bool) -> set[str]:
    """Return the names that a text uses outside of comments and strings."""
    return {token for token in tokens(text, python) if NAME.fullmatch(token)}


def only_renamed(before: list[str], after: list[str], old: set[str], new: set[str]) -> bool:
    """Return whether tokens differ by names alone, each in the place of one that is gone.

    Args:
        before: the tokens of what is compared.
        after: what has come of them.
        old: the names of the whole file before.
        new: the names of the whole file after.

    >>> only_renamed(["gap", "*", "gap"], ["d", "*", "d"], {"gap"}, {"d"})
    True
    >>> only_renamed(["min", "(", "a"], ["max", "(", "a"], {"min", "max", "a"}, {"max", "a"})
    False
    """
    taken: dict[str, str] = {}
    if len(before) != len(after):
        return False
    for a, b in zip(before, after, strict=True):
        if not (NAME.fullmatch(a) and NAME.fullmatch(b)):
            if a != b:
                return False
        elif taken.setdefault(a, b) != b or (a != b and (b in old or a in new)):
            return False
    return len(set(taken.values())) == len(taken)


def at(commit: str, path: str) -> str:
    """Return a file's text in a commit."""
    command = ["git", "show", f"{commit}:{path}"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def carried(known: Mapping[str, Outcome], commit: str) -> list[Outcome]:
    """Return the results that a commit's text has and today's has not, where only names differ."""
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    rows = tomllib.loads(at(commit, "tests/mutants/table.toml"))["fault"]
    then = {row["name"]: Fault(**row) for row in rows}
    texts = {file: at(commit, file) for file in {fault.file for fault in then.values()}}
    found = []
    for now in faults():
        fault = then.get(now.name)
        if fault is None or now.key(ROOT) in known:
            continue
        text, today = texts[fault.file], (ROOT / now.file).read_text(encoding="utf-8")
        python, outcome = now.file.endswith(".py"), known.get(fault.key_in(text))
        if outcome is None:
            continue
        before, after = (
            tokens("\n".join((f.old, f.new, f.around(t))), python)
            for f, t in ((fault, text), (now, today))
        )
        if only_renamed(before, after, names(text, python), names(today, python)):
            found.append(replace(outcome, key=now.key(ROOT), file=now.file))
    return found
