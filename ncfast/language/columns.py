"""Which column of a table or of records holds the text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .errors import LanguageError

DEFAULT_COLUMN = "text"
# Rows that are looked at to tell columns of numbers from columns of text.
LOOKED_AT = 100


def choose_column(columns: Sequence[str], texts: Sequence[str], asked: str | None, of: str) -> str:
    """Return the column of the text: the one asked for, else ``text``, else the only one with text.

    ``texts`` are the columns that hold text, ``of`` names the file or data set. Where it is not
    there or not plain which, the LanguageError lists the columns.

    >>> choose_column(["id", "body"], ["body"], None, "a.csv")
    'body'
    """
    listed = ", ".join(columns) or "none"
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise LanguageError(f"{of} has the column {twice[0]!r} more than once (it has: {listed})")
    if asked is not None:
        if asked not in columns:
            raise LanguageError(f"{of} has no column {asked!r} (it has: {listed})")
        return asked
    if DEFAULT_COLUMN in columns:
        return DEFAULT_COLUMN
    if len(texts) == 1:
        return texts[0]
    many = "no column of text" if not texts else f"{len(texts)} columns of text"
    raise LanguageError(
        f"{of} has {many} and none named {DEFAULT_COLUMN!r} (it has: {listed}); "
        "name the one to read as text_column"
    )


def note_column(notes: list[str], of: str, column: str, asked: str | None) -> None:
    """Say in a report which column was read, where nobody named it."""
    if asked is None and column != DEFAULT_COLUMN:
        notes.append(f"of {of}, the column {column!r} was read, its only one of text")
