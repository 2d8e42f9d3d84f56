"""The control word sets of an experiment, drawn once from the text and kept beside its cells."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..language import (
    Corpus,
    LanguageModel,
    WordSet,
    frequency_matched,
    random_controls,
    whole_words,
)
from ..reporting import write_atomically
from ..sealed_file import dump_json, read_json
from .local_files import as_far_as_known, digests_of_files
from .protocol import Protocol

__all__ = ["Words", "draw_words"]

SCHEMA = "ncfast-experiment-words/1"

Words = Mapping[str, WordSet]


def draw_words(protocol: Protocol, model: LanguageModel, path: Path) -> dict[str, WordSet]:
    """Return the protocol's word set, first, and its controls by name, drawn now or read from a
    file.

    ``random`` draws as many words as the set has in the text, ``matched`` one as frequent for each.
    """
    name = protocol.evaluation.words
    fair = WordSet.load(name)
    asked: dict[str, Any] = {
        "set": name,
        "controls": dict(protocol.controls),
        "texts": list(protocol.texts),
    }
    tokens = protocol.training.get("max_tokens")
    asked |= {"max_tokens": tokens, "vocabulary": _digest(model)}
    asked["files"] = digests_of_files(protocol.texts)
    if path.exists():
        kept = read_json(path, SCHEMA)
        if kept["asked"] == as_far_as_known(asked, kept["asked"]):
            return {name: fair} | {n: WordSet(n, {n: tuple(w)}) for n, w in kept["words"].items()}
    block = protocol.training.get("block_size") or 128
    corpus = Corpus.from_spec(list(protocol.texts), model.tokenizer, tokens, block, progress=False)
    counts = corpus.token_counts(model.vocab_size)
    ids = fair.to_classes(model.tokenizer, "single").ids
    ids = ids[ids < model.vocab_size]
    present = int((counts[ids] > 0).sum())
    candidates = whole_words(model.tokenizer, counts)
    drawn: dict[str, list[str]] = {}
    for number, (control, kind) in enumerate(protocol.controls.items()):
        if kind == "random":
            chosen = random_controls(ids, candidates, 1, present, seed=number)[0]
        else:
            chosen = frequency_matched(ids, counts, candidates, seed=number)
        words = [model.tokenizer.decode([i]).strip() for i in chosen.tolist()]
        drawn[control] = list(dict.fromkeys(words))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, dump_json({"schema": SCHEMA, "asked": asked, "words": drawn}))
    return {name: fair} | {n: WordSet(n, {n: tuple(w)}) for n, w in drawn.items()}


def _digest(model: LanguageModel) -> str:
    vocabulary: Any = model.tokenizer.get_vocab()
    return hashlib.sha256(repr(sorted(vocabulary.items())).encode()).hexdigest()[:16]
