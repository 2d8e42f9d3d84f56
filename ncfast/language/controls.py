"""Control sets: ordinary words to compare a named set with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from .errors import LanguageError
from .words import Policy, WordClasses, WordSet


@dataclass(frozen=True)
class DrawnWords(WordSet):
    """Name words by the one token that each was drawn as: ``words[i]`` is ``ids[i]``.

    A word set is looked up in every spelling that running text has. A control must not be: it has
    as many tokens as were drawn, or is as frequent, only as it was drawn. (Of SmolLM2's vocabulary,
    159 tokens matched to gender words by frequency became 226 with their other spellings, and
    4,816 occurrences in the text 5,704: " the" brought " The" along.)

    Attributes:
        ids: class id of each word of the one group.
    """

    ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs or [*map(len, self.groups.values())] != [len(self.ids)]:
            raise LanguageError(
                f"the drawn words {self.name!r} have {len(self.ids)} ids, {len(self.pairs)} pairs "
                f"and the groups {sorted(self.groups)}; expected one group, an id for each of its "
                "words, and no pair"
            )

    @classmethod
    def of(cls, name: str, ids: torch.Tensor, tokenizer: Any) -> DrawnWords:
        """Return the words that some class ids [K] int64 are, in one group."""
        found = tuple(int(index) for index in ids)
        return cls(name, {name: tuple(_spelled(tokenizer, index) for index in found)}, ids=found)

    def to_classes(
        self, tokenizer: Any, policy: Policy = "single", capitalised: bool = True
    ) -> WordClasses:
        """Return the ids as they were drawn, whatever policy and capitals; see :class:`WordSet`.

        A tokenizer that spells one of them otherwise is a LanguageError: the words were drawn from
        another vocabulary.
        """
        words: dict[int, tuple[str, ...]] = {}
        pieces: dict[str, tuple[tuple[int, ...], ...]] = {}
        for word, index in sorted(zip(*self.groups.values(), self.ids, strict=True), key=_by_id):
            if index >= len(tokenizer) or (here := _spelled(tokenizer, index)) != word:
                here = "none" if index >= len(tokenizer) else repr(here)
                raise LanguageError(
                    f"the drawn words {self.name!r} have {word!r} as token {index}, which is "
                    f"{here} in this vocabulary; expected the tokenizer they were drawn with"
                )
            words[index] = (word,)
            pieces[word] = (*pieces.get(word, ()), (index,))
        ids = torch.tensor(list(words), dtype=torch.int64)
        return WordClasses(
            name=self.name,
            policy=policy,
            ids=ids,
            words=words,
            groups={name: ids for name in self.groups},
            pairs=torch.empty(0, 2, dtype=torch.int64),
            pieces=pieces,
            dropped={},
            ambiguous=(),
        )


def _spelled(tokenizer: Any, index: int) -> str:
    return str(tokenizer.decode([index])).strip()


def _by_id(pair: tuple[str, int]) -> int:
    return pair[1]


@dataclass(frozen=True)
class ControlSpec:
    """Ask for one kind of control sets: ``"random"`` or ``"matched"``, and how many."""

    kind: Literal["random", "matched"]
    count: int


def parse_controls(text: str) -> list[ControlSpec]:
    """Parse a command's ``random:COUNT`` and ``matched`` (by frequency), separated by commas.

    Another form, or one kind twice, is a LanguageError.

    >>> [(spec.kind, spec.count) for spec in parse_controls("random:5,matched")]
    [('random', 5), ('matched', 1)]
    """
    specs: list[ControlSpec] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(random)(?::([1-9]\d*))?|(matched)", item)
        if match is None:
            raise LanguageError(
                f"cannot read the control {item!r} in {text!r}; expected random:COUNT or matched"
            )
        kind: Literal["random", "matched"] = "random" if match[1] else "matched"
        if any(spec.kind == kind for spec in specs):
            raise LanguageError(f"the control {kind!r} is asked for twice in {text!r}")
        specs.append(ControlSpec(kind, int(match[2] or 1)))
    return specs


def whole_words(tokenizer: Any, token_counts: torch.Tensor, min_count: int = 1) -> torch.Tensor:
    """Return the sorted ids [M] of whole alphabetic words that occur ``min_count`` times.

    A whole word starts a word in the tokenizer's own marking (no ``##``; a leading space in
    byte-level and sentencepiece vocabularies) and has at least two letters, because single letters
    are mostly initials and clipped endings. What begins a longer word is marked alike: of 159
    tokens drawn by frequency from SmolLM2's vocabulary, about a tenth are such ("Kand", "priorit").
    """
    present = torch.nonzero(token_counts >= max(min_count, 1)).flatten().tolist()
    special = set(tokenizer.all_special_ids)
    vocabulary = tokenizer.get_vocab()
    marker = _space_marker(vocabulary)
    names = {index: token for token, index in vocabulary.items()}
    kept = []
    for index in present:
        token = names.get(index)
        if token is None or index in special or not token.startswith(marker):
            continue
        word = token[len(marker) :]
        if not word.isascii():  # byte-level names spell other letters in bytes: decode them
            word = tokenizer.decode([index]).strip()
        if len(word) >= 2 and word.isalpha():
            kept.append(index)
    return torch.tensor(kept, dtype=torch.int64)


def _space_marker(vocabulary: dict[str, int]) -> str:
    """Return what the tokens that start a word begin with."""
    for marker in ("\u0120", "\u2581"):  # byte-level BPE; sentencepiece
        if sum(token.startswith(marker) for token in vocabulary) > len(vocabulary) // 20:
            return marker
    return ""


def random_controls(
    class_ids: torch.Tensor,
    candidates: torch.Tensor,
    count: int,
    size: int | None = None,
    seed: int = 0,
) -> list[torch.Tensor]:
    """Draw sets of ``size`` words (None: as many as the named set has), each sorted, none of it.

    Candidates are from :func:`whole_words`; a word may be in several sets, but once in each. Fewer
    candidates than the size are a LanguageError.
    """
    pool = _outside(candidates, class_ids)
    count_of_words = len(class_ids) if size is None else size
    if count < 1 or count_of_words < 1 or len(pool) < count_of_words:
        raise LanguageError(
            f"cannot draw {count} random control sets of {count_of_words} words from {len(pool)} "
            "candidates; expected at least one set, one word, and as many candidates as words: "
            "use more text or a smaller word set"
        )
    generator = np.random.Generator(np.random.PCG64(seed))
    draws = [generator.choice(pool, size=count_of_words, replace=False) for _ in range(count)]
    return [torch.from_numpy(np.sort(draw)) for draw in draws]


def frequency_matched(
    class_ids: torch.Tensor,
    token_counts: torch.Tensor,
    candidates: torch.Tensor,
    seed: int = 0,
) -> torch.Tensor:
    """Return one control word per class with the nearest frequency: sorted ids int64.

    Classes choose in order of falling count, because frequent partners are rarest; each takes the
    unused candidate whose log count is nearest, ``seed`` deciding between equals. Classes that do
    not occur in the text take none. Raises LanguageError where none does, or candidates are too
    few.
    """
    counts = token_counts.numpy()
    present = [int(index) for index in class_ids if counts[int(index)] > 0]
    pool = _outside(candidates, class_ids)
    pool = pool[counts[pool] > 0]
    if not present or len(pool) < len(present):
        raise LanguageError(
            f"cannot match {len(present)} classes present in the text by frequency with "
            f"{len(pool)} candidates; expected at least one class and as many candidates: "
            "use more text"
        )
    pool = np.random.Generator(np.random.PCG64(seed)).permutation(pool)
    log_counts = np.log(counts[pool])
    free = np.ones(len(pool), dtype=bool)
    chosen = []
    for index in sorted(present, key=lambda class_id: (-counts[class_id], class_id)):
        distance = np.where(free, np.abs(log_counts - np.log(counts[index])), np.inf)
        best = int(distance.argmin())
        free[best] = False
        chosen.append(int(pool[best]))
    return torch.tensor(sorted(chosen), dtype=torch.int64)


def _outside(candidates: torch.Tensor, class_ids: torch.Tensor) -> np.ndarray:
    return np.setdiff1d(candidates.numpy(), class_ids.numpy())
