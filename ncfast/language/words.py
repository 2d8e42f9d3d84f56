"""Named sets of words, and the class ids they are for a given tokenizer."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from .errors import LanguageError
from .inspection import unknown_id_of
from .text_files import blocks, check_file
from .word_files import is_word, words_of_columns, words_of_json

BUILT_IN = Path(__file__).parent / "wordsets"
Policy = Literal["single", "first", "last", "mean"]


@dataclass(frozen=True)
class WordClasses:
    """Hold the class ids of a word set under one tokenizer and one policy."""

    name: str  # name of the word set
    policy: Policy  # how words became ids
    ids: torch.Tensor  # class ids [K] int64, sorted, each once
    words: dict[int, tuple[str, ...]]  # for each id, the words it stands for
    # for each group, its ids [K_g] int64, sorted; an ambiguous id is in several
    groups: dict[str, torch.Tensor]
    pairs: torch.Tensor  # id pairs [P, 2] int64, one for each pair of words and way of writing both
    # for each kept word, the pieces of every way of writing it that counts; with policy ``"mean"``
    # a caller averages over the pieces of a word
    pieces: dict[str, tuple[tuple[int, ...], ...]]
    dropped: dict[str, str]  # for each word left out, the reason
    ambiguous: tuple[int, ...]  # ids that stand for words of more than one group

    def groups_of(self, class_id: int) -> tuple[str, ...]:
        """Return the groups one of ``ids`` belongs to, in the word set's order."""
        return tuple(name for name, ids in self.groups.items() if (ids == class_id).any())


@dataclass(frozen=True)
class WordSet:
    """Name some words, in groups and in pairs.

    Attributes:
        name: name for reports.
        groups: words of each group; a plain list of words is one group named like the set.
        pairs: pairs of words.
    """

    name: str
    groups: dict[str, tuple[str, ...]]
    pairs: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for name, words in (*self.groups.items(), *(("pairs", pair) for pair in self.pairs)):
            if isinstance(words, str):  # which would be read letter by letter
                raise LanguageError(
                    f"the word set {self.name!r} has {name!r} as the string {words!r}; expected a "
                    "sequence of words"
                )
            if not isinstance(words, Collection) or not all(map(is_word, words)):
                raise LanguageError(
                    f"the word set {self.name!r} has {name!r} as {words!r}; expected a sequence of "
                    "words, each a string"
                )
        for pair in self.pairs:
            if len(pair) != 2:
                raise LanguageError(
                    f"the word set {self.name!r} has the pair {pair!r}; expected two words"
                )

    @property
    def words(self) -> tuple[str, ...]:
        """Return every word once, in order."""
        return tuple(dict.fromkeys(word for group in self.groups.values() for word in group))

    @classmethod
    def load(cls, name_or_path: str) -> WordSet:
        """Load a built-in word set or a file.

        Args:
            name_or_path: a built-in name (``"gender"``), a .txt file (a word a line, or two
                columns, which are pairs; ``#`` starts a comment), or a .json file:
                ``{"groups": {name: [words]}, "pairs": [[a, b], ...]}``, or
                ``{group: [words] or {word: id}}``, whose ids belong to some other tokenizer and
                are not used.

        Returns:
            The word set.

        Raises:
            LanguageError: no such set or file, or no words in it.

        >>> WordSet.load("gender").pairs[0]
        ('she', 'he')
        """
        path = Path(os.path.expanduser(name_or_path))  # keeps a name of nobody
        built_in = sorted(file.stem for file in BUILT_IN.glob("*.json"))
        if not path.is_file():
            if name_or_path not in built_in:
                raise LanguageError(
                    f"there is no word set {name_or_path!r}; expected a .txt or .json file or one "
                    f"of the built-in sets: {', '.join(built_in)}"
                )
            path = BUILT_IN / f"{name_or_path}.json"
        check_file(path, "word set")
        try:
            text = "".join(blocks(path))
        except LanguageError as error:
            raise LanguageError(f"cannot read the word set {path}: {error}") from error
        if path.suffix == ".json":
            groups, pairs = words_of_json(path, text)
        else:
            groups, pairs = words_of_columns(path, text)
        unique = {name: tuple(dict.fromkeys(words)) for name, words in groups.items() if words}
        if not unique:
            raise LanguageError(f"the word set {path} holds no words; expected at least one")
        return cls(path.stem, unique, tuple(pairs))

    def to_classes(
        self, tokenizer: Any, policy: Policy = "single", capitalised: bool = True
    ) -> WordClasses:
        """Find the class ids of the words.

        A word is looked up as it is written in the middle of a sentence (after a space), also
        capitalised, and capitalised at the start of a text. Byte-level tokenizers know these as
        different tokens, and each one that qualifies is a class of the word. A lower-case token
        without its space is left out: there it is mostly a piece of other words.

        Args:
            tokenizer: a transformers tokenizer.
            policy: what to do with words of several pieces. ``"single"`` keeps only ways of
                writing that are one piece; ``"first"`` and ``"last"`` take that piece (``"first"``
                is what the fairness paper did); ``"mean"`` keeps every piece, and the caller
                averages with the help of ``pieces``.
            capitalised: also look up the capitalised forms.

        Returns:
            The class ids and what became of each word.

        Raises:
            LanguageError: an unknown policy, or not one word of the set is in the vocabulary.
        """
        if policy not in ("single", "first", "last", "mean"):
            raise LanguageError(f"policy={policy!r}; expected 'single', 'first', 'last' or 'mean'")
        spelling = _Spelling(tokenizer, capitalised)
        unknown = unknown_id_of(tokenizer)
        forms: dict[str, dict[str, tuple[int, ...]]] = {}
        dropped: dict[str, str] = {}
        for word in dict.fromkeys((*self.words, *(word for pair in self.pairs for word in pair))):
            usable, reason = _usable(spelling.forms(word), policy, unknown)
            if usable:
                forms[word] = usable
            else:
                dropped[word] = reason
        if not forms:
            some = ", ".join(list(dropped)[:8])
            raise LanguageError(
                f"no word of the set {self.name!r} is in the vocabulary under the policy "
                f"{policy!r} (given: {some}); expected at least one"
            )
        return _collect(self, policy, forms, dropped)


class _Spelling:
    """Spell words with a tokenizer the way they stand in running text."""

    # Something that stands before a space in any text and never joins the word after it.
    _before = ","

    def __init__(self, tokenizer: Any, capitalised: bool) -> None:
        self._tokenizer = tokenizer
        self._capitalised = capitalised
        self._anchor = self._encode(self._before)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def forms(self, word: str) -> dict[str, tuple[int, ...]]:
        """Return the pieces of each way of writing a word, by name of the way."""
        capital = word[:1].upper() + word[1:]
        forms = {"middle": self._middle(word)}
        if self._capitalised:
            forms["middle, capitalised"] = self._middle(capital)
            forms["start, capitalised"] = self._encode(capital)
        elif word == capital:
            forms["start"] = self._encode(word)
        return {name: pieces for name, pieces in forms.items() if pieces}

    def _middle(self, word: str) -> tuple[int, ...]:
        whole = self._encode(f"{self._before} {word}")
        length = len(self._anchor)
        return whole[length:] if whole[:length] == self._anchor else self._encode(f" {word}")


def _usable(
    forms: dict[str, tuple[int, ...]], policy: Policy, unknown: int | None
) -> tuple[dict[str, tuple[int, ...]], str]:
    """Keep the forms a policy can use; give the reason when there is none."""
    known = {name: pieces for name, pieces in forms.items() if unknown not in pieces}
    if not known:
        return {}, "unknown to the tokenizer"
    if policy == "single":
        single: dict[str, tuple[int, ...]] = {}
        for name, pieces in known.items():
            if len(pieces) == 1:
                single[name] = pieces
        return single, f"{min(map(len, known.values()))} pieces"
    if policy == "mean":
        return known, ""
    place = 0 if policy == "first" else -1
    one_each: dict[str, tuple[int, ...]] = {
        name: (pieces[place],) for name, pieces in known.items()
    }
    return one_each, ""


def _collect(
    word_set: WordSet,
    policy: Policy,
    forms: dict[str, dict[str, tuple[int, ...]]],
    dropped: dict[str, str],
) -> WordClasses:
    words: dict[int, list[str]] = {}
    for word, ways in forms.items():
        for class_id in sorted({piece for pieces in ways.values() for piece in pieces}):
            words.setdefault(class_id, []).append(word)
    groups = {}
    for name, members in word_set.groups.items():
        ids = {
            piece for word in members for pieces in forms.get(word, {}).values() for piece in pieces
        }
        groups[name] = torch.tensor(sorted(ids), dtype=torch.int64)
    seen = [class_id for ids in groups.values() for class_id in ids.tolist()]
    pairs: dict[tuple[int, int], None] = {}
    for left, right in word_set.pairs:
        for way in forms.get(left, {}).keys() & forms.get(right, {}).keys():
            a, b = forms[left][way], forms[right][way]
            if len(a) == len(b) == 1 and a != b:
                pairs[a[0], b[0]] = None
    return WordClasses(
        name=word_set.name,
        policy=policy,
        ids=torch.tensor(sorted(words), dtype=torch.int64),
        words={class_id: tuple(words[class_id]) for class_id in sorted(words)},
        groups=groups,
        pairs=torch.tensor(sorted(pairs), dtype=torch.int64).reshape(-1, 2),
        pieces={word: tuple(dict.fromkeys(ways.values())) for word, ways in forms.items()},
        dropped=dropped,
        ambiguous=tuple(sorted({class_id for class_id in seen if seen.count(class_id) > 1})),
    )
