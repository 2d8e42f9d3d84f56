"""Which of the cells that lie in a folder are of a protocol; why the others are not, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..language import LanguageError, WordSet
from ..sealed_file import read_json
from .cells import Cell, decisive, digests_of_words
from .controls import SCHEMA as WORDS
from .controls import words_of_file
from .laboratory import Laboratory
from .local_files import as_far_as_known
from .protocol import Model, Protocol

__all__ = ["Results", "read_fitting", "told_unfit"]

MOST = 4  # differences, or cells, in words
# What needs the model or the benchmarks' files to be known, and is the same in every cell of a
# model, with what it is in words.
SHARED = {"base": "checkpoint", "words": "sets of words", "items": "items of benchmarks"}


class Results(dict[str, dict[str, Any]]):
    """Hold what each cell found, by the cell's name.

    Attributes:
        taken: names of the cells that were there already, and were not run now.
        unfit: of cells that are there and are not of the protocol, why, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[str] = []
        self.unfit: dict[str, str] = {}


def read_fitting(laboratory: Laboratory, model: Model, cells: Sequence[Cell]) -> Results:
    """Return what those of a model's cells found that are there and of the laboratory's protocol.

    A cell fits where a run would not run it anew, as far as that can be told without the model and
    the benchmarks' files: in the protocol's part of its identity, in the sets of words that are
    kept here, and in having checkpoint, words and items of the first of the cells that fits.
    """
    protocol, results = laboratory.protocol, Results()
    first: tuple[str, Mapping[str, Any]] = ("", {})
    drawn = _drawn(protocol, laboratory.folder / "words" / f"{model.name}.json")
    sets = sorted({protocol.evaluation.words, *protocol.controls})
    for cell in cells:
        found = laboratory.read(cell)
        if found is None:
            continue
        known = found["identity"]
        now = as_far_as_known(laboratory.asked(cell, model), known)
        own = {k: v for k, v in known.items() if k not in SHARED}
        why = _differences(
            decisive({**own, "files": {}, "sets": sorted(known["words"])}),
            decisive({**now, "files": {}, "sets": sets}),
        )
        why += _files_apart(known, now)
        if why := why or _unlike(known, drawn, first):
            results.unfit[cell.name] = _listed(why, "; ")
            continue
        results[cell.name] = found
        first = first if first[0] else (cell.name, known)
    return results


def told_unfit(unfit: Mapping[str, str]) -> list[str]:
    """Say which cells do not fit and why, a sentence for each reason.

    >>> told_unfit({"tiny/none/0": "training.steps is 3 there, and 5 in the protocol"})
    ['Of another protocol, and counted as not run, is 1 cell that lies here, tiny/none/0:
    training.steps is 3 there, and 5 in the protocol.']
    """
    reasons: dict[str, list[str]] = {}
    for name, why in unfit.items():
        reasons.setdefault(why, []).append(name)
    return [
        "Of another protocol, and counted as not run, "
        f"{'is 1 cell that lies' if len(names) == 1 else f'are {len(names)} cells that lie'} here, "
        f"{_listed(names, ', ')}: {why}."
        for why, names in reasons.items()
    ]


def _files_apart(known: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say which files that lie here hold something else; of others, nobody knows."""
    kept, here = known.get("files", {}), now.get("files", {})
    return [f"what lies in {name} has changed" for name in here if kept.get(name) != here[name]]


def _drawn(protocol: Protocol, path: Path) -> dict[str, str] | str:
    """Return digests of the sets of words kept here, or why they are of another protocol.

    Empty where none are kept.
    """
    if not path.exists():
        return {}
    kept, evaluation = read_json(path, WORDS), protocol.evaluation
    asked = {"set": evaluation.words, "controls": dict(protocol.controls)}
    if found := _differences({k: kept["asked"].get(k) for k in asked}, asked):
        return _listed(found, "; ")
    words = words_of_file(kept)
    with suppress(LanguageError):  # a file of words that is not here: nobody knows what it holds
        words[evaluation.words] = WordSet.load(evaluation.words)
    return digests_of_words(words)


def _unlike(
    known: Mapping[str, Any], drawn: dict[str, str] | str, first: tuple[str, Mapping[str, Any]]
) -> list[str]:
    """Say in what the model and the benchmarks' files decide, a cell is unlike the others."""
    if isinstance(drawn, str):
        return [drawn]
    words = known["words"]
    if other := [name for name, digest in drawn.items() if words.get(name) != digest]:
        return [f"its sets of words ({', '.join(other)}) are not those that are kept here"]
    name, of_first = first
    if not name:
        return []
    return [
        f"its {said}{_names_apart(known[key], of_first[key])} of {name}"
        for key, said in SHARED.items()
        if known[key] != of_first[key]
    ]


def _names_apart(one: Any, other: Any) -> str:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return " is not that"
    names = [name for name in sorted({**one, **other}) if one.get(name) != other.get(name)]
    return f" ({', '.join(names)}) are not those"


def _differences(known: Any, now: Any, where: str = "") -> list[str]:
    """Return where what is kept differs from what is asked, each with both values."""
    if known == now:
        return []
    known, now = _named(known), _named(now)
    if isinstance(known, dict) and isinstance(now, dict):
        found = []
        for key in {**known, **now}:
            place = f"{where}.{key}" if where else str(key)
            found += _differences(known.get(key), now.get(key), place)
        return found or [f"{where} is in another order there than in the protocol"]
    one, other = (_shown(value) for value in (known, now))
    return [f"{where} is {one} there, and {other} in the protocol"]


def _named(value: Any) -> Any:
    """Return tables in a list by their names."""
    if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        return {v.get("name", number): v for number, v in enumerate(value)}
    return value


def _shown(value: Any) -> str:
    return "nothing" if value is None else "a table" if isinstance(value, dict) else repr(value)


def _listed(some: Sequence[str], between: str) -> str:
    more = f" and {len(some) - MOST} more" if len(some) > MOST else ""
    return between.join(some[:MOST]) + more
