"""Word sets as files: JSON with groups and pairs, or columns of text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import LanguageError
from .records import check_text, parse_json

__all__ = ["is_word", "words_of_columns", "words_of_json"]

Found = tuple[dict[str, Sequence[str]], list[tuple[str, str]]]  # groups and pairs


def words_of_json(path: Path, text: str) -> Found:
    layout = '{"groups": {name: [words]}, "pairs": [[a, b], ...]}'
    try:
        content = parse_json(text, f"the word set {path}")
        groups = content.get("groups")
        pairs = content.get("pairs", []) if groups is not None else []
        if groups is None:
            groups = content
        groups = {str(name): _words(words) for name, words in groups.items()}
        pairs = [(left, right) for left, right in map(_words, pairs)]
    except (ValueError, AttributeError, TypeError) as error:
        raise LanguageError(
            f"cannot read the word set {path}: {error}; expected {layout}"
        ) from error
    if pairs and not any(groups.values()):
        groups = {path.stem: [word for pair in pairs for word in pair]}
    return groups, pairs


def _words(words: Any) -> list[str]:
    if isinstance(words, str):  # which would be read letter by letter
        raise TypeError(f"{words!r} is a string, not a list of words")
    return [_word(word) for word in words]


def is_word(word: Any) -> bool:
    return isinstance(word, str) and bool(word.strip())


def _word(word: Any) -> str:
    if not is_word(word):
        raise TypeError(f"{word!r} is no word")
    try:
        return check_text(word.strip(), repr(word))
    except LanguageError as error:
        raise TypeError(str(error)) from None


def words_of_columns(path: Path, text: str) -> Found:
    words: list[str] = []
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        columns = line.split("#")[0].split()
        if len(columns) > 2:
            raise LanguageError(
                f"{path}, line {number} has {len(columns)} columns ({line.strip()[:60]!r}); "
                "expected one word, or two words that are a pair"
            )
        words += columns
        if len(columns) == 2:
            pairs.append((columns[0], columns[1]))
    return {path.stem: words}, pairs
