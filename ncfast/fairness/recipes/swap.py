"""The other gender's reading of a sentence: words, pronouns by case, and first names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ...language import WordSet
from .swap_words import (
    AFTER_OBJECT,
    DATIVE,
    EITHER,
    ELSEWHERE,
    NAMES,
    NOT_MANNER,
    ONE_WAY,
    UNLIKE,
)

# A word, with what hyphens join to it: "mother-in-law" is one, and so is "man-made".
WORD = re.compile(r"(?<![\w-])[^\W\d_]+(?:-[^\W\d_]+)*(?![\w-])")
# A space and then a digit, an opening quote or bracket, or another sign that ends no sentence.
BEGINS = re.compile(r"\s+(?:\d|[^\w\s.,;:!?)\]-])")
IN_LAW = "-in-law"


@dataclass(frozen=True)
class Swapped:
    """Hold the swapped text."""

    text: str  # the text; the one that was given where ``ambiguous`` is not 0
    swapped: int  # how many words are, or would be, another word
    ambiguous: int  # words whose counterpart is not certain


class Swapper:
    """Swap the genders of a text, or say that it cannot be done with certainty.

    - Pronouns go by case: *she* and *he*, *herself* and *himself*, *him* to *her*, *hers* to *his*.
      *Her* is *his* before a noun phrase and *him* elsewhere; *his* is *her* before a noun phrase
      and *hers* elsewhere. Which one it is, the next word says: one of a closed class (*of*,
      *and*, *the*, *yesterday*), a punctuation mark or the end means elsewhere. What may be either
      ("her back", "made her cry") is ambiguous.
    - Other words are the pairs of the word set ``gender`` but those that are not counterparts in
      running text (*god*, *lion*, *prostate*); ``pairs`` takes others. Only whole words count,
      written in lower case, capitalised or in capitals, and the swapped word is written alike.
      In a hyphenated word only *-in-law* is followed: *man-made* stays.
    - First names are of a list of pairs, capitalised or in capitals.

    Where some word is ambiguous here or in the swapped text, or the swapped text would not come
    back to itself, nothing is swapped. So ``swap(swap(y)) == y`` for every ``y = swap(x)``.

    Names follow Maudslay et al. 2019, the rest Lu et al. 2018.

    Args:
        pairs: pairs of lower-case words, neither of them a pronoun; None for ``gender``.
        names: swap first names.

    >>> swap = Swapper()
    >>> swap("HIS wife said the car was hers.").text
    'HER husband said the car was his.'
    >>> swap("Tom saw her cry.").ambiguous
    1
    """

    def __init__(self, pairs: Iterable[tuple[str, str]] | None = None, names: bool = True) -> None:
        """Build the tables."""
        chosen = WordSet.load("gender").pairs if pairs is None else tuple(pairs)
        words: dict[str, str] = {}
        if pairs is None:
            words |= ONE_WAY
            chosen = tuple(pair for pair in chosen if not UNLIKE & set(pair))
        for one, other in (*ELSEWHERE, *chosen):
            for word, counterpart in ((one, other), (other, one)):
                words.setdefault(word, counterpart)
        self._words = words
        self._names = {a: b for pair in NAMES for a, b in (pair, pair[::-1])} if names else {}

    def __call__(self, text: str) -> Swapped:
        """Swap one text, or return it with the number of words that are ambiguous."""
        there, changed, doubts = self._guess(text)
        if not changed:
            return Swapped(text, 0, 0)
        back, _, doubts_back = self._guess(there)
        again = self._guess(back)[0]
        doubts = doubts or doubts_back
        if doubts or again != there:
            return Swapped(text, changed, max(doubts, 1))
        return Swapped(there, changed, 0)

    def _guess(self, text: str) -> tuple[str, int, int]:
        """Swap every word by its likelier counterpart; count the words and the doubts."""
        parts, end, changed, doubts = [], 0, 0, 0
        found = list(WORD.finditer(text))
        for number, match in enumerate(found):
            word = match[0]
            low = word.lower()
            counterpart = self._counterpart(word, low)
            if low in ("her", "his") and _style(word) is not None:
                before = found[number - 1][0].lower() if number else ""
                following = found[number + 1] if number + 1 < len(found) else None
                noun, doubt = self._before_noun(match, before, following)
                doubts += doubt
                plain = ("his" if noun else "him") if low == "her" else "her" if noun else "hers"
                counterpart = _written(plain, word)
            if counterpart is not None:
                parts += [text[end : match.start()], counterpart]
                end = match.end()
                changed += 1
        return "".join([*parts, text[end:]]), changed, doubts

    def _counterpart(self, word: str, low: str) -> str | None:
        if "-" in low:
            head = low.removesuffix(IN_LAW)
            other = self._words.get(head) if head != low else None
            return None if other is None else _written(other + IN_LAW, word)
        if low in self._words:
            if low == "ms" and word != "Ms":  # a manuscript, a disease
                return None
            return _written(self._words[low], word)
        title = low.capitalize()
        if title in self._names and word in (title, title.upper()):
            return _written(self._names[title].lower(), word)
        return None

    def _before_noun(
        self, match: re.Match, before: str, following: re.Match | None
    ) -> tuple[bool, bool]:
        """Tell whether *her* or *his* stands before a noun phrase, and whether that is in doubt."""
        low, text, end = match[0].lower(), match.string, match.end()
        if following is None or not text[end : following.start()].isspace():
            # A number or a quotation may begin a noun phrase: "her 2 cars", "her 'friend'".
            begins = BEGINS.match(text, end) is not None
            return begins, begins and low == "her"
        word = following[0].lower()
        if word == "own":
            return True, False
        if word in AFTER_OBJECT:
            return False, False
        if low == "his":  # "his back", "his alone" are rarely "that of him" and more
            return True, False
        manner = word.endswith("ly") and word not in NOT_MANNER
        certain = word in self._words  # "gave her mother": such a noun does not stand by itself
        return True, word in EITHER or manner or (before in DATIVE and not certain)


def _style(word: str) -> str | None:
    """Return how a word is written: ``"lower"``, ``"title"``, ``"upper"``; None for another way."""
    if word.islower():
        return "lower"
    if word == word.capitalize():
        return "title"
    return "upper" if word.isupper() else None


def _written(word: str, like: str) -> str | None:
    """Write a lower-case word as another is written; None where that is in no regular way."""
    style = _style(like)
    if style is None:
        return None
    return {"lower": word, "title": word.capitalize(), "upper": word.upper()}[style]
