"""The control word sets of an experiment, drawn once from the text and kept beside its cells."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..language import (
    Corpus,
    DrawnWords,
    LanguageModel,
    WordSet,
    frequency_matched,
    random_controls,
    whole_words,
)
from ..reporting import write_atomically
from ..sealed_file import dump_json, read_json
from .local_files import as_far_as_known, digests_of_files
from .protocol import Model, Protocol

__all__ = ["SCHEMA", "Words", "draw_words", "words_of_file"]

SCHEMA = "ncfast-experiment-words/1"

Words = Mapping[str, WordSet]


def draw_words(
    protocol: Protocol, model: Model, base: LanguageModel, path: Path
) -> dict[str, WordSet]:
    """Return the protocol's word set, first, and its controls by name, drawn now or read from a
    file.

    ``random`` draws as many words as the set has in the text, ``matched`` one as frequent for each;
    each is the token that was drawn and no other spelling of it. A file of an earlier version has
    words alone: they go on as they began, in every spelling, and that is warned of.
    """
    name = protocol.evaluation.words
    fair = WordSet.load(name)
    training = {**protocol.training, **model.training}
    asked: dict[str, Any] = {
        "set": name,
        "controls": dict(protocol.controls),
        "texts": list(protocol.texts),
        "max_tokens": training.get("max_tokens"),
        "vocabulary": _digest(base),
        "files": digests_of_files(protocol.texts),
    }
    if training.get("text_column") is not None:
        asked["text_column"] = training["text_column"]
    if (kept := _kept(path, asked)) is not None:
        return {name: fair, **kept}
    drawn = _drawn(protocol, training, base, fair)
    document = {
        "schema": SCHEMA,
        "asked": asked,
        "words": {control: words.groups[control] for control, words in drawn.items()},
        "ids": {control: words.ids for control, words in drawn.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, dump_json(document))
    return {name: fair, **drawn}


def _kept(path: Path, asked: Mapping[str, Any]) -> Mapping[str, WordSet] | None:
    """Return the controls of a file, or None where there is none or it is of something else."""
    if not path.exists():
        return None
    kept = read_json(path, SCHEMA)
    if kept["asked"] != as_far_as_known(asked, kept["asked"]):
        return None
    if "ids" not in kept:
        warnings.warn(
            f"{path}: the controls were drawn by a version that kept words and not tokens; they go "
            "on as they began, in every spelling of each word, so that there may be more of them "
            "than were drawn: another --out draws them anew",
            stacklevel=2,
        )
    return words_of_file(kept)


def words_of_file(kept: Mapping[str, Any]) -> dict[str, WordSet]:
    """Return the controls that a file of :func:`draw_words` holds: an earlier one, words alone."""
    ids = kept.get("ids")
    return {
        name: WordSet(name, {name: tuple(words)})
        if ids is None
        else DrawnWords(name, {name: tuple(words)}, ids=tuple(ids[name]))
        for name, words in kept["words"].items()
    }


def _drawn(
    protocol: Protocol, training: Mapping[str, Any], base: LanguageModel, fair: WordSet
) -> dict[str, DrawnWords]:
    corpus = Corpus.from_spec(
        list(protocol.texts),
        base.tokenizer,
        training.get("max_tokens"),
        training.get("block_size") or 128,
        text_column=training.get("text_column"),
        progress=False,
    )
    counts = corpus.token_counts(base.vocab_size)
    ids = fair.to_classes(base.tokenizer, "single").ids
    ids = ids[ids < base.vocab_size]
    present = int((counts[ids] > 0).sum())
    candidates = whole_words(base.tokenizer, counts)
    drawn = {}
    for number, (control, kind) in enumerate(protocol.controls.items()):
        if kind == "random":
            chosen = random_controls(ids, candidates, 1, present, seed=number)[0]
        else:
            chosen = frequency_matched(ids, counts, candidates, seed=number)
        drawn[control] = DrawnWords.of(control, chosen, base.tokenizer)
    return drawn


def _digest(model: LanguageModel) -> str:
    vocabulary: Any = model.tokenizer.get_vocab()
    return hashlib.sha256(repr(sorted(vocabulary.items())).encode()).hexdigest()[:16]
