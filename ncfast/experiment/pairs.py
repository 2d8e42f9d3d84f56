"""Cells that go together: those of an arm by seed, and those of two arms with one seed."""

from __future__ import annotations

from typing import Any

from .cells import Cell
from .errors import ExperimentError
from .grid import Results
from .protocol import Contrast, Model, Protocol

__all__ = ["cells_by_seed", "paired"]


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
