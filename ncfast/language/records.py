"""Records of files and data sets: the text of each."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .columns import LOOKED_AT, choose_column, note_column
from .errors import LanguageError
from .tables import rows_of_parquet, rows_of_table
from .text_files import LONGEST_RECORD, blocks, whole_lines


def read_records(path: Path, kind: str, asked: str | None, notes: list[str]) -> Iterator[str]:
    """Yield the text of every record of a .jsonl, .json, .csv, .tsv or .parquet file, some empty.

    ``notes`` gets the column that was chosen, where none was asked for. Where the file is damaged,
    or has no such column, the LanguageError names the place.
    """
    if kind == ".parquet":
        yield from rows_of_parquet(path, asked, notes)
    elif kind in (".csv", ".tsv"):
        yield from rows_of_table(path, "," if kind == ".csv" else "\t", asked, notes)
    else:
        found = _json_lines(path) if kind == ".jsonl" else _json_list(path)
        yield from texts_of(found, str(path), asked, notes)


def texts_of(
    records: Iterable[tuple[Any, str]], of: str, asked: str | None, notes: list[str]
) -> Iterator[str]:
    """Yield the text of every (record, its place) of a file or data set; ``notes`` as above.

    >>> list(texts_of([({"id": 1, "body": "he"}, "line 1")], "a.jsonl", None, []))
    ['he']
    """
    iterator = iter(records)
    first = list(itertools.islice(iterator, LOOKED_AT))
    column = _column_of_records([record for record, _ in first], of, asked, notes)
    for record, where in itertools.chain(first, iterator):
        if isinstance(record, str):  # a list of texts
            text: Any = record
        elif isinstance(record, dict):
            text = record.get(column)
            text = "" if text is None and column in record else text
        else:
            raise LanguageError(f"{where} is a {type(record).__name__}; expected an object")
        if not isinstance(text, str):
            raise LanguageError(
                f"{where} has no text under the key {column!r} (it has: {', '.join(record)})"
            )
        yield check_text(text, where)


def _column_of_records(
    records: Sequence[Any], of: str, asked: str | None, notes: list[str]
) -> str | None:
    """Choose by all of the first records: in the very first one a text may be null."""
    rows = [record for record in records if isinstance(record, dict)]
    if not rows:
        return asked
    columns = list(dict.fromkeys(name for row in rows for name in row))
    texts = [name for name in columns if any(isinstance(row.get(name), str) for row in rows)]
    column = choose_column(columns, texts, asked, of)
    note_column(notes, of, column, asked)
    return column


def check_text(text: str, where: str) -> str:
    """Return a text, or raise for half a character (a lone surrogate), which JSON's escapes can
    spell but no UTF-8 text can hold and no tokenizer takes.

    >>> check_text("he", "line 1")
    'he'
    """
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise LanguageError(
                f"{where} holds half a character (the lone surrogate "
                f"U+{ord(text[error.start]):04X}); expected whole ones"
            ) from None
    return text


def _json_lines(path: Path) -> Iterator[tuple[Any, str]]:
    for number, line in enumerate(whole_lines(path), start=1):
        where = f"{path}, line {number}"
        yield (parse_json(line, where) if line.strip() else ""), where


def _json_list(path: Path) -> Iterator[tuple[Any, str]]:
    parts, length = [], 0
    for text in blocks(path):
        parts.append(text)
        length += len(text)
        if length > LONGEST_RECORD:
            raise LanguageError(
                f"{path} has more than {LONGEST_RECORD:,} characters; expected a .jsonl file, "
                "which is read line by line"
            )
    records = parse_json("".join(parts), str(path))
    if not isinstance(records, list):
        raise LanguageError(
            f"{path} holds a {type(records).__name__}; expected a list of records or of texts, "
            "or a .jsonl file"
        )
    for number, record in enumerate(records, start=1):
        yield record, f"{path}, record {number}"


def parse_json(text: str, where: str) -> Any:
    """Parse JSON that a user brought; LanguageError if it is none, or too deeply nested to be read.

    >>> parse_json("[1]", "line 1")
    [1]
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise LanguageError(f"{where} is not JSON: {error}") from error
    except RecursionError:
        raise LanguageError(f"{where} is nested too deeply to be read as JSON") from None
