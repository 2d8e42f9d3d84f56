"""Documents from files, folders, globs, packaged text and data sets."""

from __future__ import annotations

import glob
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..wheels import is_packaged, resolve
from .errors import LanguageError, import_extra
from .records import read_records, texts_of
from .text_files import (
    NAMED_ONLY,
    PACKED,
    PLAIN,
    RECORDS,
    Piece,
    blocks,
    check_file,
    kind_of_file,
    lines,
    paragraphs,
    stripped,
)

KNOWN = (*PLAIN, *RECORDS, *NAMED_ONLY)
EXPECTED = f"{' '.join(KNOWN)} (each but .parquet also {PACKED})"
SAVED_DATA_SET = ("dataset_info.json", "state.json")


@dataclass
class Sources:
    """Read documents from one or more text specs, in a fixed order."""

    specs: Sequence[str]  # what the user typed, in order
    # ``"lines"`` (a document is a line) or ``"paragraphs"`` (lines up to an empty one, joined by
    # spaces), of plain text; elsewhere a document is a record
    documents: str = "lines"
    # the column that holds the text, where there are several; None takes the column ``text``, or
    # the only one of text
    text_column: str | None = None
    progress: bool = True  # show progress of downloads on stderr
    notes: list[str] = field(default_factory=list)  # filled while reading: what a report should say
    # filled while reading: files in folders that are no text by their suffix
    skipped_files: list[str] = field(default_factory=list)
    # filled while reading: files in folders that are hidden, or in a hidden folder there
    hidden_files: list[str] = field(default_factory=list)
    empty_documents: int = 0  # filled while reading: lines or records without any text

    def __post_init__(self) -> None:
        """Reject settings that no source could satisfy."""
        if self.documents not in ("lines", "paragraphs"):
            raise LanguageError(f"documents={self.documents!r}; expected 'lines' or 'paragraphs'")
        if isinstance(self.specs, str) or not self.specs:
            raise LanguageError(
                f"texts={self.specs!r}; expected a list with at least one text file, folder, "
                "demo:text, pypi: spec or data set name"
            )
        self._columns = False
        self._read: Counter[Path] = Counter()

    def read(self) -> Iterator[Piece]:
        """Yield the documents in pieces, stripped and never empty, and whether one ends.

        Every spec is looked up before the first document comes, so a wrong name in the last place
        is found at once. LanguageError: a source is missing, unreadable, or holds no text at all.
        """
        readers = [(spec, self._open(spec)) for spec in self.specs]
        if self.text_column is not None and not self._columns:
            raise LanguageError(
                f"text_column={self.text_column!r} with {', '.join(self.specs)}, which has no "
                "columns; expected a text with columns, or no text_column"
            )
        for spec, parts in readers:
            found, inside = 0, False
            for text, ends in stripped(itertools.chain.from_iterable(parts)):
                if text or inside:
                    found += not inside
                    yield text, ends
                    inside = not ends
                else:
                    self.empty_documents += 1
            if not found:
                raise LanguageError(f"the text {spec} is empty; expected at least one document")

    def have_columns(self) -> bool:
        """Open every text, and tell whether one of them has columns, as records have them."""
        for spec in self.specs:
            self._open(spec)
        return self._columns

    def _open(self, spec: str) -> list[Iterator[Piece]]:
        """Find what a spec names; return one iterator of documents per file."""
        if "\0" in spec:
            raise LanguageError(f"the text name {spec!r} holds a NUL character")
        if is_packaged(spec):
            packaged = resolve(spec, progress=self.progress)
            self.notes.extend(packaged.notes)
            return self._files(packaged.path, spec)
        try:
            path = Path(spec).expanduser()
            if path.exists():
                return self._files(path, spec)
            matches = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        except (OSError, RuntimeError) as error:  # a name too long, or nobody's home
            raise LanguageError(f"cannot read the text {spec}: {error}") from error
        if matches:
            return [part for match in matches for part in self._files(match, str(match))]
        if not spec.startswith("hf:"):
            if glob.has_magic(spec):
                raise LanguageError(f"no text file or folder matches {spec}")
            if spec.startswith((".", "/", "~")) or kind_of_file(path) is not None:
                raise LanguageError(f"there is no text file or folder {spec}")
        self._columns = True
        return [self._data_set(spec)]

    def _files(self, path: Path, spec: str) -> list[Iterator[Piece]]:
        if not path.is_dir():
            check_file(path, "text")
            if kind_of_file(path) is None:
                raise LanguageError(
                    f"the text {spec} is of no type that is read ({path.suffix or 'no ending'}); "
                    f"expected {EXPECTED}"
                )
            return [self._file(path)]
        if is_saved_data_set(path):
            self._columns = True
            return [self._saved_data_set(path)]
        files, hidden = files_of_folder(path)
        self.hidden_files += map(str, hidden)
        known = [file for file in files if is_text_of_folder(file)]
        self.skipped_files += [str(file) for file in files if not is_text_of_folder(file)]
        if not known:
            raise LanguageError(
                f"the folder {spec} holds no text file among its {len(files)} files; "
                f"expected {' '.join((*PLAIN, *RECORDS))}"
            )
        return [self._file(file) for file in known]

    def _file(self, path: Path) -> Iterator[Piece]:
        place = path.resolve()
        if self._read[place] == 1:
            self.notes.append(f"{path} is named more than once, and is read each time")
        self._read[place] += 1
        kind = kind_of_file(path)
        if kind is not None and kind not in PLAIN:
            self._columns = True
            return whole(read_records(path, kind, self.text_column, self.notes))
        found = lines(blocks(path))
        return found if self.documents == "lines" else paragraphs(stripped(found))

    def _saved_data_set(self, path: Path) -> Iterator[Piece]:
        datasets = import_extra("datasets", f"the folder {path} is a saved data set; reading it")
        try:
            rows = datasets.load_from_disk(str(path))
        except Exception as error:  # the library raises a dozen unrelated types
            reason = " ".join(str(error).split())[:200]
            raise LanguageError(f"cannot load the data set {path}: {reason}") from error
        return whole(self._rows(rows, str(path)))

    def _data_set(self, spec: str) -> Iterator[Piece]:
        """Open a data set at once, so that a wrong name is found early; read it lazily."""
        purpose = f"the text {spec!r} is no file or folder here; reading it as a data set"
        datasets = import_extra("datasets", purpose)
        name, config, split = _data_set_parts(spec)
        try:
            rows = datasets.load_dataset(name, config, split=split, streaming=True)
        except Exception as error:  # the library raises a dozen unrelated types
            raise LanguageError(
                f"the text {spec!r} is no file or folder here, and cannot be loaded as a data "
                f"set ({' '.join(str(error).split())[:200]}); expected a file, a folder, "
                "demo:text or hf:NAME[:config][:split]"
            ) from error
        return whole(self._rows(rows, spec))

    def _rows(self, rows: Any, spec: str) -> Iterator[str]:
        of = f"the data set {spec}"
        numbered = ((row, f"row {number} of {of}") for number, row in enumerate(_reading(rows, of)))
        return texts_of(numbered, of, self.text_column, self.notes)


def is_saved_data_set(folder: Path) -> bool:
    """Tell a folder that the library datasets has saved from one of texts."""
    return all((folder / name).is_file() for name in SAVED_DATA_SET)


def files_of_folder(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files below a folder, in order, and apart those that are hidden.

    Copies that editors and archives leave (.ipynb_checkpoints, ._a.txt) are nobody's text.
    """
    found: dict[bool, list[Path]] = {False: [], True: []}
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        found[_is_hidden(file.relative_to(folder))].append(file)
    return found[False], found[True]


def is_text_of_folder(file: Path) -> bool:
    """Return whether a file is read as text where only its folder is named."""
    return kind_of_file(file) not in (None, *NAMED_ONLY)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def whole(texts: Iterator[str]) -> Iterator[Piece]:
    """Yield texts as documents of one piece.

    >>> list(whole(iter(["a"])))
    [('a', True)]
    """
    for text in texts:
        yield text, True


def _reading(rows: Any, of: str) -> Iterator[Any]:
    """Yield rows, and turn what a connection raises in the middle into one error."""
    try:
        yield from rows
    except Exception as error:  # the library raises a dozen unrelated types
        reason = " ".join(str(error).split())[:200]
        raise LanguageError(f"{of} cannot be read on: {reason}") from error


def _data_set_parts(spec: str) -> tuple[str, str | None, str]:
    """Split ``hf:NAME[:config][:split]``: two parts are name and split, three add the config."""
    parts = spec.removeprefix("hf:").split(":")
    if not all(parts) or len(parts) > 3:
        raise LanguageError(f"cannot read the data set {spec!r}; expected hf:NAME[:config][:split]")
    if len(parts) == 3:
        return parts[0], parts[1], parts[2]
    return parts[0], None, parts[1] if len(parts) == 2 else "train"
