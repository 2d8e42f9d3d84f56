"""How far a run has come, in words: cells done, what is under way, hours left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from .cells import BASE, Cell
from .fitting import told_unfit
from .grid import cells_of, first_run, read_grid
from .laboratory import Laboratory
from .protocol import Model, Protocol

__all__ = ["render_state"]


def render_state(protocol: Protocol, folder: Path) -> str:
    """Say of each model how many cells are done, which is under way, and how long the rest takes.

    Hours are by what cells here took: of an arm by its own, else by those of the same kind
    (trained or not); endpoints that are evaluated last are counted, and their hours are not.
    Nothing is run or written.
    """
    if not (folder / "first-run.json").exists():
        return f"{folder}: nothing has been run of {protocol.path.name}"
    lines = [f"{protocol.title}, in {folder}"]
    if first_run(protocol, folder)["digest"] != protocol.digest:
        lines.append(
            "The protocol has changed since the first run: cells that it changes count as not done "
            "here, and will be run anew."
        )
    laboratory = Laboratory(protocol, folder, "cpu", lambda text: None)
    results = read_grid(protocol, folder)
    lines += told_unfit(results.unfit)
    for model in protocol.models:
        cells = list(cells_of(protocol, model))
        done = [cell for cell in cells if cell.name in results]
        lines.append(
            f"{model.name}: {len(done)} of {len(cells)} cells done, {_by_arm(cells, done)}"
        )
        lines += _under_way(laboratory, [cell for cell in cells if cell not in done])
        lines += _late(protocol, model, results)
        lines.append(_left(protocol, laboratory, cells, done, results))
    return "\n".join(lines)


def _by_arm(cells: Sequence[Cell], done: Sequence[Cell]) -> str:
    arms = dict.fromkeys(cell.arm for cell in cells)
    counts = {arm: [sum(c.arm == arm for c in some) for some in (done, cells)] for arm in arms}
    return ", ".join(f"{arm} {one} of {all_of}" for arm, (one, all_of) in counts.items())


def _under_way(laboratory: Laboratory, cells: Sequence[Cell]) -> list[str]:
    """Say which cells were begun, and how many steps their training has written down."""
    said = []
    folders = {cell: laboratory.path(cell) for cell in cells}
    for cell in (c for c, f in folders.items() if f.is_dir() and not (f / "cell.json").exists()):
        log = laboratory.path(cell) / "train" / "steps.jsonl"
        steps = len(log.read_bytes().splitlines()) if log.exists() else 0
        said.append(f"   {cell.name}: begun, {steps} steps of its training are kept")
    return said


def _late(protocol: Protocol, model: Model, results: Mapping[str, Any]) -> list[str]:
    said = []
    for endpoint in (e for e in protocol.endpoints if e.late):
        asked = [c for c in cells_of(protocol, model) if c.arm in endpoint.late]
        there = [
            c for c in asked if endpoint.name in results.get(c.name, {"endpoints": {}})["endpoints"]
        ]
        if asked:
            said.append(f"   {endpoint.name}, evaluated last: {len(there)} of {len(asked)} done")
    return said


def _left(
    protocol: Protocol,
    laboratory: Laboratory,
    cells: Sequence[Cell],
    done: Sequence[Cell],
    results: Mapping[str, Any],
) -> str:
    """Say how many hours the cells that are left take, by those that are done."""
    left = [cell for cell in cells if cell not in done]
    if not left:
        return "   no cell is left"
    took = _seconds(laboratory, done, results)
    if not took:
        return f"   hours left: not known before the second cell is done ({len(left)} cells left)"
    arms: dict[str, list[float]] = {}
    kinds: dict[bool, list[float]] = {}
    for cell, seconds in took.items():
        arms.setdefault(cell.arm, []).append(seconds)
        kinds.setdefault(_trained(protocol, cell), []).append(seconds)
    every = median(took.values())
    hours = sum(
        median(arms.get(c.arm) or kinds.get(_trained(protocol, c)) or [every]) for c in left
    )
    return (
        f"   hours left: {hours / 3600:,.1f} for {len(left)} cells, by the {len(took)} measured "
        f"here (median {every:.3g} s a cell)"
    )


def _trained(protocol: Protocol, cell: Cell) -> bool:
    return cell.arm != BASE and not protocol.arm(cell.arm).of


def _seconds(
    laboratory: Laboratory, done: Sequence[Cell], results: Mapping[str, Any]
) -> dict[Cell, float]:
    """Return what cells took, as they say; of those that do not, the time since the one before."""
    ended = {cell: (laboratory.path(cell) / "cell.json").stat().st_mtime for cell in done}
    order = sorted(done, key=lambda cell: ended[cell])
    found: dict[Cell, float] = {}
    for before, cell in zip([None, *order], order, strict=False):
        if (seconds := results[cell.name].get("seconds")) is not None:
            found[cell] = float(seconds)
        elif before is not None:
            found[cell] = ended[cell] - ended[before]
    return found
