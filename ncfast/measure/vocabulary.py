"""What each class of the whole vocabulary is by itself, in a table beside the report."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..reporting import write_atomically

__all__ = ["VOCABULARY_FILE", "write_vocabulary"]

VOCABULARY_FILE = "vocabulary.csv"


def write_vocabulary(
    folder: Path, per_class: Mapping[str, Tensor], spellings: Mapping[int, str]
) -> Path:
    """Write ``vocabulary.csv``: a row per class that occurred, in the order of their ids.

    Its columns are ``class_id``, ``word`` (a class's spelling) and those of ``per_class``, an
    ``NCReport``'s, with every digit; its text is UTF-8, and what UTF-8 lacks is escaped by a
    backslash. Where it cannot be written, what was there is untouched.

    >>> import tempfile, torch
    >>> columns = {"class_ids": torch.tensor([7]), "norms": torch.tensor([0.5])}
    >>> write_vocabulary(Path(tempfile.mkdtemp()), columns, {7: "a,b"}).read_text().split()
    ['class_id,word,norms', '7,"a,b",0.5']
    """
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    columns = {name: column.tolist() for name, column in per_class.items() if name != "class_ids"}
    table.writerow(["class_id", "word", *columns])
    ids = per_class["class_ids"].tolist()
    for class_id, *row in zip(ids, *columns.values(), strict=True):
        table.writerow([class_id, spellings[class_id], *row])
    path = folder / VOCABULARY_FILE
    write_atomically(path, text.getvalue().encode("utf-8", "backslashreplace"))
    return path
