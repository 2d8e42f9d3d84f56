"""Answers of one model, kept on disk as they come, so that a killed evaluation goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

__all__ = ["Journal"]


class Journal:
    """Map (ids, position, candidate) to log-probabilities, and append them to a file, if any.

    A line is ``[key, value]``. A last line without its end, which a kill cut short, is dropped; any
    other line that does not parse is an error, never skipped.

    >>> journal = Journal(None)
    >>> journal[(1, 2), 0, 5] = -1.5
    >>> ((1, 2), 0, 5) in journal, journal[(1, 2), 0, 5]
    (True, -1.5)
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[Hashable, Any] = {}
        self._new: list[str] = []
        if path is not None and path.exists():
            self._read(path)

    def __contains__(self, key: tuple[tuple[int, ...], int, int]) -> bool:
        """Tell whether the answer is known."""
        return self._key(key) in self._known

    def __getitem__(self, key: tuple[tuple[int, ...], int, int]) -> Any:
        """Return the answer."""
        return self._known[self._key(key)]

    def __setitem__(self, key: tuple[tuple[int, ...], int, int], value: Any) -> None:
        """Note an answer; :meth:`flush` puts it on the disk."""
        short = self._key(key)
        self._known[short] = value
        if self._path is not None:
            self._new.append(json.dumps([short, value]))

    def flush(self) -> None:
        """Append what is new to the file."""
        if self._path is None or not self._new:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a", encoding="ascii") as stream:
            stream.write("\n".join(self._new) + "\n")
        self._new.clear()

    def _key(self, key: tuple[tuple[int, ...], int, int]) -> Hashable:
        if self._path is None:
            return key
        ids, position, candidate = key
        text = f"{position} {candidate} {' '.join(map(str, ids))}"
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def _read(self, path: Path) -> None:
        *lines, rest = path.read_bytes().split(b"\n")
        if rest:  # cut short: what is appended next would stand on the same line
            with open(path, "r+b") as stream:
                stream.truncate(path.stat().st_size - len(rest))
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                key, value = json.loads(line)
                self._known[key] = tuple(value) if isinstance(value, list) else float(value)
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number} is damaged; expected [key, value]: delete the file "
                    "to score everything anew"
                ) from error
