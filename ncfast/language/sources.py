"""Documents from files, folders, JSON lines, packaged text and data sets."""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import LanguageError, import_extra
from .packaged import is_packaged, resolve

TEXT_SUFFIXES = (".txt", ".text", ".txt.gz", ".text.gz")
JSONL_SUFFIXES = (".jsonl", ".jsonl.gz")


@dataclass
class Sources:
    """Read documents from one or more text specs, in a fixed order.

    Attributes:
        specs: what the user typed, in order.
        documents: ``"lines"`` (a document is a line) or ``"paragraphs"`` (lines up to an empty
            one, joined by spaces).
        text_key: the key that holds the text in JSON lines and data sets.
        encoding: of text files.
        progress: show progress of downloads on stderr.
        notes: filled while reading: what a report should say.
        skipped_files: filled while reading: files in folders that are no text by their suffix.
        empty_documents: filled while reading: lines or records without any text.
    """

    specs: Sequence[str]
    documents: str = "lines"
    text_key: str = "text"
    encoding: str = "utf-8-sig"
    progress: bool = True
    notes: list[str] = field(default_factory=list)
    skipped_files: list[str] = field(default_factory=list)
    empty_documents: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that no source could satisfy."""
        if self.documents not in ("lines", "paragraphs"):
            raise LanguageError(f"documents={self.documents!r}; wanted 'lines' or 'paragraphs'")
        if isinstance(self.specs, str) or not self.specs:
            raise LanguageError(
                f"texts={self.specs!r}; wanted a list with at least one text file, folder, "
                "demo:text, pypi: spec or data set name"
            )

    def read(self) -> Iterator[str]:
        """Yield one document after the other, stripped and never empty.

        Every spec is looked up before the first document comes, so a wrong name in the last
        place is found at once.

        Yields:
            The text of each document.

        Raises:
            LanguageError: a source is missing, unreadable, or holds no text at all.
        """
        readers = [(spec, self._open(spec)) for spec in self.specs]
        for spec, parts in readers:
            found = 0
            for text in itertools.chain.from_iterable(parts):
                stripped = text.strip()
                if stripped:
                    found += 1
                    yield stripped
                else:
                    self.empty_documents += 1
            if not found:
                raise LanguageError(f"the text {spec} is empty; wanted at least one document")

    def _open(self, spec: str) -> list[Iterator[str]]:
        """Find what a spec names; return one iterator of documents per file."""
        if is_packaged(spec):
            packaged = resolve(spec, progress=self.progress)
            self.notes.extend(packaged.notes)
            return [self._file(file) for file in self._files(packaged.path, spec)]
        path = Path(spec).expanduser()
        if path.exists():
            return [self._file(file) for file in self._files(path, spec)]
        looks_like_path = spec.startswith((".", "/", "~")) or spec.endswith(
            TEXT_SUFFIXES + JSONL_SUFFIXES
        )
        if looks_like_path:
            raise LanguageError(f"there is no text file or folder {spec}")
        return [self._data_set(spec)]

    def _files(self, path: Path, spec: str) -> list[Path]:
        if not path.is_dir():
            return [path]
        files = sorted(file for file in path.rglob("*") if file.is_file())
        known = [file for file in files if file.name.endswith(TEXT_SUFFIXES + JSONL_SUFFIXES)]
        self.skipped_files += [str(file) for file in files if file not in set(known)]
        if not known:
            raise LanguageError(
                f"the folder {spec} holds no text file among its {len(files)} files; "
                f"wanted {' '.join(TEXT_SUFFIXES + JSONL_SUFFIXES)}"
            )
        return known

    def _file(self, path: Path) -> Iterator[str]:
        opener: Any = gzip.open if path.suffix == ".gz" else open
        try:
            with opener(path, "rt", encoding=self.encoding) as lines:
                if path.name.endswith(JSONL_SUFFIXES):
                    yield from self._json_lines(path, lines)
                elif self.documents == "lines":
                    yield from lines
                else:
                    yield from _paragraphs(lines)
        except UnicodeDecodeError as error:
            raise LanguageError(
                f"the text file {path} is not {error.encoding} ({error.reason} at byte "
                f"{error.start}); wanted plain text"
            ) from error
        except (OSError, EOFError, zlib.error) as error:
            raise LanguageError(f"cannot read the text file {path}: {error}") from error

    def _json_lines(self, path: Path, lines: Iterator[str]) -> Iterator[str]:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                self.empty_documents += 1
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise LanguageError(f"{path}, line {number} is not JSON: {error}") from error
            yield self._text_of(record, f"{path}, line {number}")

    def _text_of(self, record: Any, where: str) -> str:
        text = record.get(self.text_key) if isinstance(record, dict) else None
        if not isinstance(text, str):
            keys = ", ".join(record) if isinstance(record, dict) else type(record).__name__
            raise LanguageError(
                f"{where} has no text under the key {self.text_key!r} (it has: {keys}); "
                "name the key that holds the text"
            )
        return text

    def _data_set(self, spec: str) -> Iterator[str]:
        """Open a data set at once, so that a wrong name is found early; read it lazily."""
        purpose = f"the text {spec!r} is no file or folder here; reading it as a data set"
        datasets = import_extra("datasets", purpose)
        name, config, split = _data_set_parts(spec)
        try:
            rows = datasets.load_dataset(name, config, split=split, streaming=True)
        except Exception as error:  # the library raises a dozen unrelated types
            raise LanguageError(
                f"the text {spec!r} is no file or folder here, and cannot be loaded as a data "
                f"set ({' '.join(str(error).split())[:200]}); wanted a file, a folder, "
                "demo:text or hf:NAME[:config][:split]"
            ) from error
        return self._rows(rows, spec)

    def _rows(self, rows: Any, spec: str) -> Iterator[str]:
        for number, record in enumerate(rows):
            yield self._text_of(record, f"row {number} of the data set {spec}")


def _data_set_parts(spec: str) -> tuple[str, str | None, str]:
    """Split ``hf:NAME[:config][:split]``: two parts are name and split, three add the config."""
    parts = spec.removeprefix("hf:").split(":")
    if not all(parts) or len(parts) > 3:
        raise LanguageError(f"cannot read the data set {spec!r}; wanted hf:NAME[:config][:split]")
    if len(parts) == 3:
        return parts[0], parts[1], parts[2]
    return parts[0], None, parts[1] if len(parts) == 2 else "train"


def _paragraphs(lines: Iterator[str]) -> Iterator[str]:
    paragraph: list[str] = []
    for line in lines:
        if line.strip():
            paragraph.append(line.strip())
        elif paragraph:
            yield " ".join(paragraph)
            paragraph = []
    if paragraph:
        yield " ".join(paragraph)
