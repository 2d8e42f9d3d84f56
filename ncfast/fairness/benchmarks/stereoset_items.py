"""The contexts of StereoSet's files, every row checked."""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import need
from ..errors import row_error
from ..requests import Origin
from ..texts import BLANK

__all__ = ["FILES", "LABELS", "Cluster", "read_clusters"]

LABELS = ("stereotype", "anti-stereotype", "unrelated")
BIAS_TYPES = ("gender", "profession", "race", "religion")
FILES = {
    "dev": ("dev.min.json", "dev.json", "dev.min.json.gz", "dev.json.gz"),
    "test": ("test.min.json.gz", "test.json", "test.min.json", "test.json.gz"),
}


@dataclass(frozen=True)
class Cluster:
    """Hold one context and its three sentences by gold label, each an (id, sentence) pair."""

    split: str
    intra: bool
    id: str
    target: str
    bias_type: str
    context: str
    sentences: dict[str, tuple[str, str]]
    file: str

    def origin(self, field: str) -> Origin:
        """Name one of its fields, for errors."""
        return Origin(self.file, self.id, field)

    def word(self, label: str) -> str:
        """Return the word a sentence has at the blank, without punctuation, as the harness."""
        index = [i for i, w in enumerate(self.context.split(" ")) if BLANK in w][-1]
        word = self.sentences[label][1].split(" ")[index]
        return word.translate(str.maketrans("", "", string.punctuation))


def read_clusters(path: Path, document: Any, split: str, attribute: str) -> Iterator[Cluster]:
    """Yield the contexts of a file whose bias type is asked for, every row checked."""
    data = need(path, 0, document, "data", dict)
    known: set[tuple[str, object]] = (
        set()
    )  # items listed three times have sqrt(3) too narrow intervals
    for part in ("intrasentence", "intersentence"):
        for number, row in enumerate(need(path, 0, data, part, list) if part in data else [], 1):
            has_id = isinstance(row, dict) and "id" in row
            name = need(path, number, row, "id") if has_id else number
            if (part, name) in known:
                raise row_error(path, name, "id", "a second time; expected each item once")
            known.add((part, name))
            kind = need(path, name, row, "bias_type")
            if kind not in BIAS_TYPES:
                expected = ", ".join(BIAS_TYPES)
                raise row_error(path, name, "bias_type", f"{kind!r}; expected one of {expected}")
            if attribute not in ("all", kind):
                continue
            sentences: dict[str, tuple[str, str]] = {}
            for entry in need(path, name, row, "sentences", list):
                label = need(path, name, entry, "gold_label")
                if label not in LABELS or label in sentences:
                    raise row_error(
                        path, name, "gold_label", f"{label!r}; expected each once of {LABELS}"
                    )
                sentences[label] = (
                    need(path, name, entry, "id"),
                    need(path, name, entry, "sentence"),
                )
            for label in LABELS:
                if label not in sentences:
                    raise row_error(
                        path, name, "gold_label", f"no {label!r} sentence; expected three"
                    )
            context = need(path, name, row, "context")
            intra = part == "intrasentence"
            if intra and BLANK not in context:
                raise row_error(path, name, "context", f"no {BLANK}; expected one")
            target = need(path, name, row, "target")
            yield Cluster(
                split,
                intra,
                str(name),
                target,
                kind,
                context=context,
                sentences=sentences,
                file=path.name,
            )
