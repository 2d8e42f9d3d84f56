"""Cells that go together: those of an arm by seed, and those of two arms with one seed."""

from __future__ import annotations

from typing import Any

from .cells import Cell
from .errors import ExperimentError
from .grid import Results
from .protocol import Contrast, Model, Protocol

__all__ = ["cells_by_seed", "made_apart", "paired"]


def cells_by_seed(model: Model, arm: str, protocol: Protocol, results: Results) -> dict[int, Any]:
    """Return what the cells of an arm found, by seed, of those that have been run."""
    found = {s: results.get(Cell(model.name, arm, s).name) for s in protocol.seeds_of(model)}
    return {seed: cell for seed, cell in found.items() if cell is not None}


def paired(
    model: Model, contrast: Contrast, endpoint: str, protocol: Protocol, results: Results
) -> dict[int, tuple[Any, Any]]:
    """Return the endpoint of both arms by seed, of the seeds that have both."""
    one = cells_by_seed(model, contrast.arm, protocol, results)
    two = cells_by_seed(model, contrast.against, protocol, results)
    pairs = {
        seed: (one[seed]["endpoints"].get(endpoint), two[seed]["endpoints"].get(endpoint))
        for seed in protocol.seeds_of(model)
        if seed in one and seed in two
    }
    for seed, (a, b) in pairs.items():
        if a and b and a.get("items") != b.get("items"):
            if not a.get("drawn"):  # perplexities of different texts
                return {}
            raise ExperimentError(
                f"{model.name}, seed {seed}: {endpoint} of {contrast.arm} and {contrast.against} "
                "is over different items; expected the same"
            )
    return {
        seed: (a, b)
        for seed, (a, b) in pairs.items()
        if a and b and a.get("value") is not None and b.get("value") is not None
    }


def made_apart(model: Model, contrast: Contrast, protocol: Protocol, results: Results) -> str:
    """Say in which seeds both arms were made with other code, torch, device or threads, or nothing.

    Cells of before that was kept say nothing of it; one such beside one that does is told.
    """
    one, two = (
        {
            seed: cell.get("made", {})
            for seed, cell in cells_by_seed(model, arm, protocol, results).items()
        }
        for arm in (contrast.arm, contrast.against)
    )
    both = [seed for seed in one if seed in two]
    apart = {
        seed: {key: (a.get(key, "not said"), b.get(key, "not said")) for key in {**a, **b}}
        for seed, a, b in ((seed, one[seed], two[seed]) for seed in both)
        if a != b
    }
    if not apart:
        return ""
    told = dict.fromkeys(
        f"{key} {a or 'none'} and {b or 'none'}"
        for found in apart.values()
        for key, (a, b) in found.items()
        if a != b
    )
    return (
        f"{contrast.arm} and {contrast.against} were not made alike in {len(apart)} of "
        f"{len(both)} seeds ({'; '.join(told)}): their differences may hold that too."
    )
