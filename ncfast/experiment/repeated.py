"""A cell that was run again beside the one that was published: which digits are the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor, log10
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from .sources import newest_commit

__all__ = ["PRINTED", "Repeated", "compare_cell", "made_with", "reproduces"]

# Of this code, when it was loaded: hours later another may lie there.
COMMIT, UNCHANGED = newest_commit(Path(__file__).parents[1], "%h")
PRINTED = 4  # significant digits of the report's table of runs
FURTHEST = 5  # values that differ, in words


@dataclass(frozen=True)
class Repeated:
    """Hold what a cell repeats of a published one."""

    same: bool  # whether what the report prints of the cell is the same
    said: str  # the verdict, in sentences


def made_with(device: str) -> dict[str, str | int]:
    """Return what the last digits of a cell depend on beside its protocol.

    The commit is that of this code when it was loaded, ``+`` where files differed from it; empty
    outside of git.
    """
    return {
        "ncfast": __version__,
        "commit": COMMIT + ("+" if COMMIT and not UNCHANGED else ""),
        "torch": torch.__version__,
        "device": device,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def compare_cell(
    name: str, found: Mapping[str, Any], published: Mapping[str, Any], words: str
) -> Repeated:
    """Compare contents of ``cell.json`` with those of a report's ``cells.json``, in words.

    The cell is the same where every number that the report's table of runs prints of it, its
    endpoints and (U)NC3 of the word set ``words``, is within half a unit of the last of its
    :data:`PRINTED` digits. What is not printed is compared too, and the verdict says by how much it
    differs.
    """
    printed = _printed(published, words)
    here = _printed(found, words)
    missing = [key for key in printed if key not in here]
    other = [
        f"{key} is {here[key]!r}, published {value!r}"
        for key, value in printed.items()
        if key in here and not _as_printed(here[key], value)
    ]
    different = reproduces(found, published)
    values = len(_pairs(found, published))
    compared = len(printed) - len(missing)
    if not compared:
        return Repeated(
            False,
            f"{name} is NOT compared: what is published has none of its numbers "
            f"({', '.join(printed) or 'no number'}); expected the report of this protocol",
        )
    if other:
        said = f"{name} is NOT reproduced: of {compared} numbers that the report prints of it, "
        said += f"{len(other)} differ in their {PRINTED} digits: {'; '.join(other)}."
    elif not different:
        said = f"{name} is reproduced to the last digit: all {values} values are equal"
        said += ", and so are the weights." if _same_weights(found, published) else "."
    else:
        said = f"{name} is reproduced as printed: its {compared} numbers in the report's table of "
        said += f"runs are the same to {PRINTED} digits, within half a unit of the last."
    if different:
        furthest = "; ".join(different[:FURTHEST])
        said += (
            f"\nUnrounded, {len(different)} of {values} values differ, the furthest: {furthest}."
        )
        said += f"\n{_reason(found.get('made'), published.get('made'))}"
    if missing:
        said += f"\nNot compared, because a cell alone does not run it: {', '.join(missing)}."
    return Repeated(not other, said)


def _reason(here: Mapping[str, Any] | None, there: Mapping[str, Any] | None) -> str:
    """Say what equal last digits need: the same code, settings and kind of processor."""
    need = "The last digits are equal only with the same code, torch, threads and kind of processor"
    if not there:
        return f"{need}; the published cell does not say with which it was made."
    here = here or {}
    apart = [f"{k} {v}, here {here.get(k)}" for k, v in there.items() if here.get(k) != v]
    if apart:
        return f"{need}; published: {'; '.join(apart)}."
    return f"{need}, which are the same here: please report it."


def _same_weights(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.get("weights") is not None and one.get("weights") == other.get("weights")


def _printed(cell: Mapping[str, Any], words: str) -> dict[str, float | None]:
    """Return what the table of runs prints of a cell."""
    found = {name: entry.get("value") for name, entry in cell["endpoints"].items()}
    if words in cell["nc"]:
        found[f"(U)NC3 of {words}"] = cell["nc"][words].get("unc3_std")
    return found


def _as_printed(one: float | None, other: float | None) -> bool:
    """Tell whether two numbers are the same to the digits that are printed of the other.

    >>> _as_printed(0.51551296, 0.51551317), _as_printed(0.5156, 0.51551317)
    (True, False)
    """
    if one is None or other is None or other == 0:
        return one == other
    unit = 10.0 ** (floor(log10(abs(other))) - PRINTED + 1)
    return abs(one - other) <= unit / 2


def reproduces(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return endpoints and metrics that differ between two runs of one cell, the furthest first.

    Each with both values and their difference as a share of the larger one. Contents of
    ``cell.json`` or of the report's ``cells.json``; empty where every digit is equal.

    >>> one, other = ({"endpoints": {"gap": {"value": v}}, "nc": {}} for v in (0.5, 0.4))
    >>> reproduces(one, other)
    ['gap: 0.5 and 0.4 (2e-01)']
    """
    pairs = _pairs(one, other)
    apart = [(_apart(a, b), f"{name}: {a!r} and {b!r}") for name, a, b in pairs if a != b]
    return [f"{said} ({share:.0e})" for share, said in sorted(apart, reverse=True)]


def _pairs(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    pairs = [
        (name, one["endpoints"].get(name, {}).get("value"), entry.get("value"))
        for name, entry in other["endpoints"].items()
        if name in one["endpoints"]
    ]
    for name, metrics in other["nc"].items():
        pairs += [(f"{name} {k}", one["nc"].get(name, {}).get(k), v) for k, v in metrics.items()]
    return pairs


def _apart(a: float | None, b: float | None) -> float:
    return 1.0 if a is None or b is None else abs(a - b) / max(abs(a), abs(b))
