"""The plain text of ``demo:text``, made from the BOLD and GAP files of one wheel."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
from pathlib import Path

from ..errors import LanguageError

TEXT_FILE = "text.txt"


def write_wikipedia_text(folder: Path) -> str:
    """Turn unpacked BOLD and GAP files into one text file, a document a line; return its name.

    The raw files, ``BOLD/data/wikipedia/*.json`` and ``GAP/data/*.tsv``, are removed afterwards,
    the licences stay. Files that are missing or have another form are a LanguageError.
    """
    try:
        documents = _bold_documents(folder / "BOLD") + _gap_documents(folder / "GAP")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise LanguageError(f"the text files in the wheel have another form: {error!r}") from error
    # Each repeated text once; then a fixed shuffle, so that a prefix (--max-tokens) mixes topics.
    documents = list(dict.fromkeys(documents))
    random.Random(0).shuffle(documents)
    with open(folder / TEXT_FILE, "w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(document + "\n" for document in documents)
        stream.flush()
        os.fsync(stream.fileno())
    shutil.rmtree(folder / "BOLD" / "data")
    shutil.rmtree(folder / "GAP" / "data")
    return TEXT_FILE


def _bold_documents(folder: Path) -> list[str]:
    """Return one document per Wikipedia page: its sentences in order."""
    documents = []
    for path in sorted((folder / "data" / "wikipedia").glob("*.json")):
        for pages in json.loads(path.read_text(encoding="utf-8")).values():
            documents += [_one_line(" ".join(sentences)) for sentences in pages.values()]
    if not documents:
        raise KeyError("no BOLD pages")
    return documents


def _gap_documents(folder: Path) -> list[str]:
    """Return one document per GAP paragraph."""
    documents = []
    for path in sorted((folder / "data").glob("*.tsv")):
        text = io.StringIO(path.read_text(encoding="utf-8"), newline="")
        rows = csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
        documents += [_one_line(row["Text"]) for row in rows]
    if not documents:
        raise KeyError("no GAP paragraphs")
    return documents


def _one_line(text: str) -> str:
    return " ".join(text.split())
