"""Text files as pieces of documents: decoded, split and bounded, with file and place in errors.

A piece is a string and whether its document ends with it. Nothing here holds more of a plain text
than one block, however long its lines are.
"""

from __future__ import annotations

import codecs
import gzip
import io
import stat
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import LanguageError

Piece = tuple[str, bool]

PLAIN, RECORDS = (".txt", ".text"), (".jsonl", ".csv", ".tsv", ".parquet")
# A .json file in a folder is as likely a setting as a text: it is read where it is named.
NAMED_ONLY = (".json",)
PACKED = ".gz"
BLOCK_BYTES = 1 << 18
# A line of JSON or CSV has to be whole before it can be read.
LONGEST_RECORD = 256 << 20


def kind_of_file(path: Path) -> str | None:
    """Return which of the endings above a name has, without ``.gz``; None for every other one.

    >>> kind_of_file(Path("a.csv.gz")), kind_of_file(Path("notes.md"))
    ('.csv', None)
    """
    name = path.name.lower()
    packed = name.endswith(PACKED)
    name = name.removesuffix(PACKED)
    for ending in (*PLAIN, *RECORDS, *NAMED_ONLY):
        if name.endswith(ending):
            return None if packed and ending == ".parquet" else ending
    return None


def check_file(path: Path, what: str) -> None:
    """Raise for what is no regular file: a pipe is empty when it is read a second time.

    >>> check_file(Path(__file__), "text")
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise LanguageError(f"cannot read the {what} {path}: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise LanguageError(
            f"the {what} {path} is no regular file, and a pipe or device cannot be read twice; "
            "expected a file: write it to one first"
        )


def blocks(path: Path) -> Iterator[str]:
    r"""Yield a UTF-8 file's text, perhaps gzipped, in ``BLOCK_BYTES``, line ends as ``\n``.

    Where it cannot be read, or is no text, the LanguageError names file and byte offset.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    opener = gzip.open if path.name.lower().endswith(PACKED) else open
    offset = 0
    try:
        with opener(path, "rb") as file:
            while True:
                data = file.read(BLOCK_BYTES)
                if offset == 0 and data.startswith(codecs.BOM_UTF8):
                    data, offset = data[len(codecs.BOM_UTF8) :], len(codecs.BOM_UTF8)
                text = _decode(decoder, data, offset, path)
                offset += len(data)
                if text := newlines.decode(text, final=not data):
                    yield text
                if not data:
                    return
    except (OSError, EOFError, zlib.error) as error:
        raise LanguageError(f"cannot read the text file {path}: {error}") from error


def _decode(decoder: codecs.IncrementalDecoder, data: bytes, offset: int, path: Path) -> str:
    pending = len(decoder.getstate()[0])
    if (null := data.find(b"\0")) >= 0:
        raise LanguageError(
            f"the text file {path} holds a NUL byte at offset {offset + null:,}; expected UTF-8 "
            "text (a file of UTF-16 or of binary data has NUL bytes)"
        )
    try:
        return decoder.decode(data, final=not data)
    except UnicodeDecodeError as error:
        raise LanguageError(
            f"the text file {path} is not utf-8 ({error.reason}: byte "
            f"0x{error.object[error.start]:02x} at offset {offset - pending + error.start:,}); "
            "expected plain text"
        ) from error


def lines(texts: Iterable[str]) -> Iterator[Piece]:
    r"""Split blocks of text at their line ends, ``\n``, which are left out.

    >>> list(lines(["a b\nc", "d"]))
    [('a b', True), ('c', False), ('d', False), ('', True)]
    """
    begun = False
    for text in texts:
        *whole, rest = text.split("\n")
        for line in whole:
            yield line, True
        begun = bool(rest) or (begun and not whole)
        if rest:
            yield rest, False
    if begun:
        yield "", True


def stripped(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Take white space off both ends of each document; an empty one stays as an empty piece.

    >>> list(stripped([(" a ", False), (" b", False), (" ", True)]))
    [('a', False), ('  b', False), ('', True)]
    """
    held, begun = "", False
    for text, ends in pieces:
        text = held + text if begun else text.lstrip()
        body = text.rstrip()
        begun = (begun or bool(body)) and not ends
        held = text[len(body) :] if begun else ""
        if body or ends:
            yield body, ends


def paragraphs(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Join stripped lines up to an empty one by spaces.

    >>> list(paragraphs([("a", True), ("b", True), ("", True), ("c", True)]))
    [('a', False), (' b', False), ('', True), ('c', False), ('', True)]
    """
    in_line = in_paragraph = False
    for text, ends in pieces:
        if text:
            yield (text if in_line or not in_paragraph else " " + text), False
            in_paragraph = True
        elif ends and not in_line and in_paragraph:
            yield "", True
            in_paragraph = False
        in_line = (in_line or bool(text)) and not ends
    if in_paragraph:
        yield "", True


def whole_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file, each whole, without their ends.

    LanguageError: one longer than ``LONGEST_RECORD`` characters, or see :func:`blocks`.
    """
    parts: list[str] = []
    length, number = 0, 1
    for text, ends in lines(blocks(path)):
        parts.append(text)
        length += len(text)
        if length > LONGEST_RECORD:
            raise LanguageError(
                f"{path}, line {number} has more than {LONGEST_RECORD:,} characters; expected "
                "one record a line, each shorter"
            )
        if ends:
            yield "".join(parts)
            parts, length, number = [], 0, number + 1
