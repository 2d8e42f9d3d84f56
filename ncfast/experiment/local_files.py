"""What lies in the files here that a cell is made of: their content decides it, not their name."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..fairness.recipes import RECIPES
from ..language.sources import files_of_folder, is_saved_data_set, is_text_of_folder
from .cells import decisive
from .errors import ExperimentError
from .parts import Arm

__all__ = [
    "as_far_as_known",
    "digests_of_files",
    "files_of",
    "is_here",
    "is_same",
    "told_change",
]

# What cells of before say nothing of: files' digests, the texts that collapse is measured on, and
# the attribute whose items are asked.
LATER = ("files", "measured", "attribute")


def files_of(arm: Arm, texts: Iterable[str], training: Mapping[str, Any]) -> list[str]:
    """Return what may name files here: texts, validation, a recipe's files, sets of words."""
    words = arm.terms.get("words", ())
    words = [*([words] if isinstance(words, str) else words), *training.get("mask_words_of", ())]
    recipe = RECIPES.get(arm.recipe)
    options = () if recipe is None or arm.of else recipe.trains_on
    named = [
        *texts,
        *training.get("validation", ()),
        *(arm.options.get(option) for option in options),
        # A set's name is no folder's, which may be called as it.
        *(name for name in words if os.path.isfile(os.path.expanduser(name))),
    ]
    return [name for name in named if isinstance(name, str)]


def digests_of_files(names: Iterable[str]) -> dict[str, str]:
    """Return a digest of what lies in each file, folder or glob here, by its name as given.

    What is none, a demo or a hub's name, is left out. A file that cannot be read is an
    ExperimentError.

    >>> digests_of_files(["demo:text", "no-such-file.txt"])
    {}
    """
    found = {}
    for name in sorted(set(names)):
        digest = hashlib.sha256()
        files = _files(name)
        for place, file in files:
            digest.update(f"{place}\n{_digest(file)}\n".encode())
        if files:
            found[name] = digest.hexdigest()[:16]
    return found


def as_far_as_known(now: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is asked now, without what was not yet kept when ``known`` was.

    >>> as_far_as_known({"seed": 1, "files": {}}, {"seed": 1})
    {'seed': 1}
    """
    return {k: v for k, v in now.items() if k not in LATER or k in known}


def is_same(known: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Tell whether a kept cell is the one that is asked for now, by what decides both.

    >>> is_same({"seed": 1}, {"seed": 1, "files": {"a.txt": "digest"}}), is_same({}, {"seed": 1})
    (True, False)
    """
    return bool(decisive(known) == decisive(as_far_as_known(now, known)))


def told_change(known: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say whether a cell is of another protocol, or of files that hold something else now."""
    now = as_far_as_known(now, known)
    if decisive({**known, "files": {}}) != decisive({**now, "files": {}}):
        return "the protocol of this cell has changed"
    before, after = known["files"], now["files"]
    names = sorted(name for name in {**before, **after} if before.get(name) != after.get(name))
    return f"what lies in {', '.join(names)} has changed"


def is_here(name: str) -> bool:
    """Tell whether a text is a file, folder or glob that is here; a demo or data set is none.

    >>> is_here("demo:text")
    False
    """
    return bool(_places(name))


def _places(name: str) -> list[Path]:
    """Return the files and folders here that a text's name is of."""
    if name.startswith(("demo:", "pypi:", "hf:")):
        return []
    try:
        path = Path(name).expanduser()
        if path.exists():
            return [path]
        return [Path(file) for file in sorted(glob.glob(str(path), recursive=True))]
    except (OSError, RuntimeError, ValueError):  # no file's name, which reading it says
        return []


def _files(name: str) -> list[tuple[str, Path]]:
    """Return the files that a text is read from, each with its place there."""
    found: list[tuple[str, Path]] = []
    for place in _places(name):
        if not place.is_dir():
            found.append(("" if place == Path(name).expanduser() else str(place), place))
            continue
        is_read = _is_saved if is_saved_data_set(place) else is_text_of_folder
        files, _ = files_of_folder(place)
        found += [(str(file.relative_to(place)), file) for file in files if is_read(file)]
    return found


def _is_saved(file: Path) -> bool:
    """Tell a saved data set's rows from what working with it leaves beside them."""
    return file.suffix == ".arrow" and not file.name.startswith("cache-")


def _digest(file: Path) -> str:
    try:
        seen = file.stat()
        return _digest_of(file.resolve(), seen.st_size, seen.st_mtime_ns)
    except OSError as error:
        raise ExperimentError(
            f"{file}: {error.strerror}; expected a file that can be read"
        ) from error


@cache
def _digest_of(file: Path, size: int, changed: int) -> str:
    """Return the SHA-256 of a file of this size and time of change: read once, not by each cell."""
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while block := opened.read(2**20):
            digest.update(block)
    return digest.hexdigest()
