"""Which classes a measurement looks at: named word sets and the control sets drawn for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..language import (
    ControlSpec,
    Corpus,
    LanguageError,
    LanguageModel,
    WordClasses,
    WordSet,
    frequency_matched,
    parse_controls,
    random_controls,
    whole_words,
)
from ..reporting.document_sets import SetDescription


@dataclass(frozen=True)
class PlannedSet:
    """Hold one set of classes to measure.

    >>> PlannedSet("gender/matched", "matched", torch.tensor([5]), of="gender").words is None
    True
    """

    name: str  # its name in the report
    kind: str  # ``words``, ``random`` or ``matched``
    ids: torch.Tensor  # its class ids, sorted
    of: str | None = None  # the word set a control belongs to
    words: WordClasses | None = None  # what became of the words, for a word set

    def describe(self, occurrences: Mapping[int, int]) -> SetDescription:
        """Describe the set for the report; ``occurrences`` in the text are by class id.

        >>> planned = PlannedSet("gender/matched", "matched", torch.tensor([5]), of="gender")
        >>> planned.describe({5: 2}).requested
        1
        """
        labels: dict[int, tuple[Sequence[str], Sequence[str]]]
        if self.words is None:
            labels, words = {i: ((), ()) for i in self.ids.tolist()}, None
        else:
            found = self.words
            labels = {i: (found.words[i], found.groups_of(i)) for i in self.ids.tolist()}
            words = {
                "kept": len(found.pieces),
                "dropped": [{"word": w, "reason": reason} for w, reason in found.dropped.items()],
                "ambiguous": [{"id": i, "words": list(found.words[i])} for i in found.ambiguous],
                "policy": found.policy,
            }
        return SetDescription(
            self.kind, len(self.ids), self.of, labels, words, occurrences=dict(occurrences)
        )


def checked_sets(
    words: Sequence[str | WordSet], controls: str, policy: str
) -> tuple[dict[str, WordSet], list[ControlSpec]]:
    """Read word sets, by name, and kinds of controls; neither needs a model or a text.

    An unreadable set, two of one name, or an unknown control or policy is a LanguageError.

    >>> list(checked_sets(["gender"], "matched", "single")[0])
    ['gender']
    """
    specs = parse_controls(controls)
    if policy not in ("single", "first", "last"):
        raise LanguageError(
            f"policy={policy!r}; expected 'single', 'first' or 'last': a measurement looks at "
            "one class for each way of writing a word"
        )
    named: dict[str, WordSet] = {}
    for entry in words:
        word_set = entry if isinstance(entry, WordSet) else WordSet.load(str(entry))
        name = word_set.name
        if name in named or name == "vocabulary" or "/" in name:
            raise LanguageError(
                f"the word set name {name!r} is taken or not possible in a report; "
                "expected another name: rename its file"
            )
        named[name] = word_set
    return named, specs


def draw_sets(
    model: LanguageModel,
    corpus: Corpus,
    words: Sequence[str | WordSet],
    controls: str,
    policy: str,
    seed: int,
) -> dict[str, PlannedSet]:
    """Find the classes of every word set and draw its controls, before the pass: by set name.

    Random controls have as many words as the word set has in this text, so that all of them are
    compared at one number of classes. Each word set is followed by its controls, ``random:COUNT``
    and ``matched``. An unreadable set, fewer than two of its classes in the text, too few words to
    draw from, or two sets of one name is a LanguageError.
    """
    named, specs = checked_sets(words, controls, policy)
    counts = corpus.token_counts(model.vocab_size)
    candidates = whole_words(model.tokenizer, counts)
    sets: dict[str, PlannedSet] = {}
    for name, word_set in named.items():
        classes = word_set.to_classes(model.tokenizer, policy)  # type: ignore[arg-type]
        inside = classes.ids[classes.ids < model.vocab_size]
        present = int((counts[inside] > 0).sum())
        if present < 2:
            raise LanguageError(
                f"{present} of the {len(inside)} classes of the word set {name!r} occur in the "
                f"{int(counts.sum()):,} tokens that are measured; expected at least 2: measure "
                "more tokens (max_tokens; finetune: measure_tokens; experiment: nc_tokens) or "
                "other words ('none': no words)"
            )
        sets[name] = PlannedSet(name, "words", inside, words=classes)
        for spec in specs:
            sets |= _draw(spec, sets[name], present, counts, candidates, seed=seed)
    return sets


def _draw(
    spec: ControlSpec,
    planned: PlannedSet,
    present: int,
    counts: torch.Tensor,
    candidates: torch.Tensor,
    seed: int,
) -> dict[str, PlannedSet]:
    name = planned.name
    if spec.kind == "matched":
        ids = frequency_matched(planned.ids, counts, candidates, seed)
        return {f"{name}/matched": PlannedSet(f"{name}/matched", "matched", ids, of=name)}
    drawn = random_controls(planned.ids, candidates, spec.count, present, seed)
    return {
        f"{name}/random-{number}": PlannedSet(f"{name}/random-{number}", "random", ids, of=name)
        for number, ids in enumerate(drawn, start=1)
    }
