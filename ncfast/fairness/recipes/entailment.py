"""Entailment pairs with their gender-swapped copies, from a CSV file to rows of token ids."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from ...language import Batch, LanguageModel
from ...language.packing import padded
from .recipe import RecipeError

COLUMNS = ("orig_sent0", "orig_sent1", "aug_sent0", "aug_sent1")
Four = tuple[str, str, str, str]


def digest_of(path: str) -> str:
    """Return the SHA-256 of a file."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: OSError) -> RecipeError:
    return RecipeError(
        f"recipe 'mabel', option pairs={path!r}: {error.strerror}; expected a CSV file"
    )


def read_pairs(path: str) -> list[Four]:
    """Read premise, hypothesis and the swapped copy of each, from a CSV with :data:`COLUMNS`."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if missing := [c for c in COLUMNS if c not in (reader.fieldnames or ())]:
                raise RecipeError(
                    f"recipe 'mabel': {path} has the columns {reader.fieldnames or []}; expected "
                    f"{', '.join(missing)} too"
                )
            found: list[Four] = []
            for row in reader:
                one, two, three, four = ((row[c] or "").strip() for c in COLUMNS)
                if not (one and two and three and four):
                    raise RecipeError(
                        f"recipe 'mabel': {path}, line {reader.line_num} has an empty sentence; "
                        f"expected text in {', '.join(COLUMNS)}"
                    )
                found.append((one, two, three, four))
    except OSError as error:
        raise _unreadable(path, error) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise RecipeError(f"recipe 'mabel': {path} is no CSV file in UTF-8: {error}") from error
    if not found:
        raise RecipeError(f"recipe 'mabel': {path} holds no pair; expected one or more")
    return found


class EntailmentPairs:
    """Give pairs as blocks of four rows, as ``TrainingBatches`` takes them from a ``Corpus``.

    A sentence of more than ``length`` tokens is cut at its end.
    """

    def __init__(self, pairs: Sequence[Four], model: LanguageModel, length: int) -> None:
        """Tokenise the sentences."""
        flat = [sentence for four in pairs for sentence in four]
        self.rows: list[list[int]] = model.tokenizer(flat, truncation=True, max_length=length)[
            "input_ids"
        ]
        self.num_blocks = len(pairs)
        self.fingerprint = hashlib.sha256(repr(self.rows).encode()).hexdigest()
        self._padding = model.tokenizer.pad_token_id or 0
        self._special = torch.tensor(sorted(model.special_ids))

    def take(self, blocks: Sequence[int], index: int = 0) -> Batch:
        """Return the four sentences of some pairs, one after the other, padded to the longest."""
        numbers = [4 * block + k for block in blocks for k in range(4)]
        rows = [self.rows[n] for n in numbers]
        ids, mask = padded(rows, self._padding)
        special = torch.isin(ids, self._special) & (mask == 1)
        return Batch(index, torch.tensor(numbers), ids, mask, special)
