"""The tests of SEAT and WEAT: their files, lists of texts, and the word each text is about."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..data import DataFolder, need, one_of, read_json
from ..errors import row_error

__all__ = ["ROLES", "Test", "concerns", "name_of", "read_test", "test_files", "word_of"]

ROLES = ("targ1", "targ2", "attr1", "attr2")
PATTERNS = ("weat*", "sent-*", "angry_black_woman*", "heilman_double_bind*")
GENDER = re.compile(r"(sent-)?weat(6|7|8)b?$|(sent-)?heilman|(sent-)?angry")
RACE = re.compile(r"(sent-)?weat(3|4|5)b?$|(sent-)?angry")


@dataclass(frozen=True)
class Test:
    """Hold one test: its file, four lists of texts, and the word each text is about."""

    name: str
    file: str
    texts: dict[str, list[str]]
    words: dict[str, list[str]] = field(default_factory=dict)


def read_test(path: Path) -> dict[str, list[str]]:
    """Read the four lists of texts of a test, each {"category", "examples"}, by role."""
    document = read_json(path)
    if isinstance(document, list) and len(document) == 1:
        document = document[0]
    found: dict[str, list[str]] = {}
    for role in ROLES:
        entry = need(path, 1, document, role, dict)
        examples = need(path, role, entry, "examples", list)
        if not examples or not all(isinstance(text, str) and text.strip() for text in examples):
            raise row_error(path, role, "examples", "expected one or more texts")
        found[role] = examples
    one, two = (len(found[role]) for role in ROLES[:2])
    if one != two:
        raise row_error(path, "targ2", "examples", f"{two} texts; expected {one}, as of targ1")
    return found


def test_files(data: DataFolder) -> list[Path]:
    found: dict[str, list[Path]] = {}
    for path in data.glob(*(f"{p}.json*" for p in PATTERNS)):
        found.setdefault(name_of(path), []).append(path)
    return [one_of("seat", paths) for paths in found.values()]


def name_of(path: Path) -> str:
    return path.name.split(".json")[0]


def concerns(name: str, attribute: str) -> bool:
    if attribute == "all":
        return True
    if attribute == "religion":
        return "religion" in name
    pattern = {"gender": GENDER, "race": RACE}.get(attribute)
    return bool(pattern and pattern.match(name))


def word_of(text: str, words: Sequence[str]) -> str:
    """Return the longest of the test's words that stands in a text, or the text."""
    inside = [
        w for w in words if re.search(rf"(?<!\w){re.escape(w)}(?!\w)", text, flags=re.IGNORECASE)
    ]
    return max(inside, key=len, default=text)
