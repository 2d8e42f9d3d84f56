"""The text of .csv, .tsv and .parquet files, row by row."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .columns import LOOKED_AT, choose_column, note_column
from .errors import LanguageError, import_extra
from .text_files import LONGEST_RECORD, whole_lines

ROWS_AT_A_TIME = 256


def rows_of_table(path: Path, separator: str, asked: str | None, notes: list[str]) -> Iterator[str]:
    """Yield the text of every row of a .csv or .tsv file."""
    csv.field_size_limit(LONGEST_RECORD)
    rows = _rows(path, separator)
    try:
        _, header = next(rows)
    except StopIteration:
        return
    _check_separator(path, header, separator)
    first = list(itertools.islice(rows, LOOKED_AT))
    texts = [
        name for i, name in enumerate(header) if not all(_is_number(row[i]) for _, row in first)
    ]
    column = choose_column(header, texts if len(header) > 1 else header, asked, str(path))
    note_column(notes, str(path), column, asked)
    place = header.index(column)
    for _, row in itertools.chain(first, rows):
        yield row[place]


def _rows(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of every row; blank lines are none."""
    reader = csv.reader(
        (line + "\n" for line in whole_lines(path)), delimiter=separator, strict=True
    )
    width = 0
    try:
        for row in reader:
            if not row:
                continue
            width = width or len(row)
            if len(row) != width:
                raise LanguageError(
                    f"{path}, line {reader.line_num} has {len(row)} fields and the header "
                    f"{width}; expected as many, a field that holds {separator!r} in quotes"
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise LanguageError(
            f"{path}, line {reader.line_num}: {error}; expected fields separated by "
            f"{separator!r}, each plain or wholly in double quotes"
        ) from error


def _check_separator(path: Path, header: Sequence[str], separator: str) -> None:
    others = [other for other in ",;\t|" if other != separator and other in header[0]]
    if len(header) == 1 and others:
        raise LanguageError(
            f"{path}: its header {header[0]!r} is separated by {others[0]!r}; expected "
            f"{separator!r} in a {'.csv' if separator == ',' else '.tsv'} file"
        )


def _is_number(text: str) -> bool:
    try:
        float(text or "0")
    except ValueError:
        return False
    return True


def rows_of_parquet(path: Path, asked: str | None, notes: list[str]) -> Iterator[str]:
    """Yield the text of every row of a Parquet file."""
    purpose = f"reading {path}"
    arrow, parquet = import_extra("pyarrow", purpose), import_extra("pyarrow.parquet", purpose)
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            texts = [field.name for field in schema if _is_text(arrow, field.type)]
            column = choose_column(schema.names, texts, asked, str(path))
            if column not in texts:
                raise LanguageError(
                    f"the column {column!r} of {path} holds {schema.field(column).type}; "
                    "expected strings"
                )
            note_column(notes, str(path), column, asked)
            for rows in file.iter_batches(ROWS_AT_A_TIME, columns=[column]):
                for text in rows.column(0).to_pylist():
                    yield text or ""
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise LanguageError(f"cannot read the text file {path}: {reason[:200]}") from error


def _is_text(arrow: Any, kind: Any) -> bool:
    if arrow.types.is_dictionary(kind):
        kind = kind.value_type
    return arrow.types.is_string(kind) or arrow.types.is_large_string(kind)
