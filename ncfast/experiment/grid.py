"""The grid: every cell of a protocol in a fixed order, those already done skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from .. import durable_file
from ..fairness.answers import weights_digest
from ..fairness.benchmarks import BENCHMARKS
from ..fairness.recipes import RECIPES
from ..language import LanguageModel
from ..reporting import write_atomically
from ..sealed_file import dump_json, read_json
from .cells import BASE, Cell
from .columns import require_readable
from .controls import draw_words
from .errors import ExperimentError
from .fitting import Results, read_fitting
from .laboratory import Laboratory
from .parts import made_of
from .protocol import Model, Protocol
from .sources import newest_commit

__all__ = [
    "Results",
    "cells_of",
    "first_run",
    "parse_cell",
    "require_all",
    "require_rerun",
    "run_grid",
]

FIRST = "ncfast-experiment-first-run/1"
PREPARED = "ncfast-experiment-prepared/1"


def cells_of(protocol: Protocol, model: Model) -> Iterator[Cell]:
    """Yield the cells of a model by stage, then seed by seed: a stop leaves whole seeds."""
    yield Cell(model.name, BASE, 0)
    arms = sorted(protocol.arms_of(model), key=lambda arm: bool(arm.of))  # made of others: last
    for stage in sorted({arm.stage for arm in arms}):
        for seed in protocol.seeds_of(model):
            for arm in arms:
                if arm.stage == stage and seed in protocol.seeds_of(model, arm.name):
                    yield Cell(model.name, arm.name, seed)


def parse_cell(protocol: Protocol, text: str) -> Cell:
    """Return the protocol's cell of a name such as ``bert-tiny/ours/3``, or raise."""
    for model in protocol.models:
        for cell in cells_of(protocol, model):
            if cell.name == text:
                return cell
    model = protocol.models[0]
    example = [cell.name for cell in cells_of(protocol, model)][-1]
    raise ExperimentError(f"no cell {text!r}; expected MODEL/ARM/SEED, such as {example}")


def require_rerun(protocol: Protocol, folder: Path, cell: Cell, against: Path) -> None:
    """Reject a comparison in which the cell would not be run: with itself, or of one kept before.

    ``folder`` is where it would be run, ``against`` the folder or file of the published one.
    """
    there = against.resolve()
    if folder.resolve() in (there, there.parent if there.is_file() else there):
        raise ExperimentError(
            f"--out {folder} is what --against names: the cell would be compared with itself; "
            "expected another --out, where it is run anew"
        )
    if Laboratory(protocol, folder, "cpu", lambda text: None).read(cell) is not None:
        raise ExperimentError(
            f"{folder} holds {cell.name} already, and nothing would be trained now; expected "
            "another --out, where it is run anew"
        )


def require_all(protocol: Protocol) -> None:
    """Reject a protocol that this installation cannot run, before the first step."""
    from .untrained import WAYS

    recipes = known_recipes()
    for arm in protocol.arms:
        known = WAYS if arm.of else recipes
        if arm.recipe not in known:
            what = "way to change weights without training" if arm.of else "recipe"
            raise ExperimentError(
                f"the arm {arm.name!r} asks for the {what} {arm.recipe!r}, which does not exist "
                f"yet; expected one of {', '.join(known)}"
            )
    for benchmark in protocol.evaluation.data:
        if benchmark not in BENCHMARKS:
            raise ExperimentError(
                f"no benchmark {benchmark!r}; expected one of {', '.join(BENCHMARKS)}"
            )


def known_recipes() -> tuple[str, ...]:
    """Return the recipes that fine-tuning knows."""
    return tuple(name for name, recipe in RECIPES.items() if recipe.trained)


def first_run(protocol: Protocol, folder: Path) -> dict[str, str]:
    """Return what was fixed before the folder's first run, which this may be.

    ``digest`` and text of its protocol, and the git ``commit`` that held that file unchanged then;
    empty where there was none.
    """
    path = folder / "first-run.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        commit, unchanged = newest_commit(protocol.path, "%H")
        document = {
            "schema": FIRST,
            "digest": protocol.digest,
            "commit": commit if unchanged else "",
            "protocol": protocol.path.read_text(encoding="utf-8"),
        }
        write_atomically(path, dump_json(document, indent=1))
    return read_json(path, FIRST)


@durable_file.releases_claims
def run_grid(
    protocol: Protocol,
    folder: Path,
    only: Cell | None = None,
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
) -> Results:
    """Run every cell that has not been run, or ``only`` one and what it needs, but what is late.

    Returns what each cell found, by its name; ``say`` is told what is going on, a line at a time.
    """
    require_all(protocol)
    cells = [cell for model in protocol.models for cell in _cells_to_run(protocol, model, only)]
    require_readable(protocol, {cell.arm for cell in cells})
    durable_file.require_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    durable_file.claim(folder)  # another run would train, and clear, the same cells
    first_run(protocol, folder)
    laboratory, results = Laboratory(protocol, folder, device, say), Results()
    results.taken = laboratory.taken
    for late in (False, True) if only is None else (False,):
        laboratory.examiner.digests(late)  # bad data ends the run in seconds
    for model in protocol.models:
        cells = _cells_to_run(protocol, model, only)
        if not cells:
            continue
        spec = prepare(model, folder, say)
        base = LanguageModel.load(spec, device, torch.float32, progress=False)
        digest = weights_digest(base)
        words = draw_words(protocol, model, base, folder / "words" / f"{model.name}.json")
        del base
        for cell in cells:
            results[cell.name] = laboratory.run(cell, model, spec, digest, words)
    for endpoint in (e for e in protocol.endpoints if e.late and only is None):
        for model in protocol.models:
            for cell in cells_of(protocol, model):
                if cell.arm in endpoint.late:
                    found = laboratory.run_late(cell, endpoint)["endpoint"]
                    results[cell.name]["endpoints"][endpoint.name] = found
    return results


def read_grid(protocol: Protocol, folder: Path) -> Results:
    """Return what the cells done so far have found, without running any.

    Those of another protocol are left out, and ``unfit`` of the results says why.
    """
    laboratory, results = Laboratory(protocol, folder, "cpu", lambda text: None), Results()
    for model in protocol.models:
        cells = list(cells_of(protocol, model))
        fitting = read_fitting(laboratory, model, cells)
        results.unfit |= fitting.unfit
        items: dict[str, str] = {}  # of each late endpoint, those of the first cell that has it
        for cell in (c for c in cells if c.name in fitting):
            found = results[cell.name] = fitting[cell.name]
            for endpoint in (e for e in protocol.endpoints if e.late):
                late = laboratory.read(cell, f"late-{endpoint.name}.json")
                asked = laboratory.late_identity(found, endpoint)
                if late is None or not asked.items() <= late["identity"].items():
                    continue
                of_these = late["identity"]["items"]
                if items.setdefault(endpoint.name, of_these) == of_these:
                    found["endpoints"][endpoint.name] = late["endpoint"]
    return results


def _cells_to_run(protocol: Protocol, model: Model, only: Cell | None) -> list[Cell]:
    cells = list(cells_of(protocol, model))
    if only is None:
        return cells
    if only.model != model.name:
        return []
    needed = () if only.arm == BASE else made_of(protocol.arm(only.arm))
    return [c for c in cells if c == only or (c.arm in needed and c.seed == only.seed)]


def prepare(model: Model, folder: Path, say: Callable[[str], None]) -> str:
    """Return where a model is, a spec that loads, made first where the protocol says how."""
    if model.spec:
        return model.spec
    out = folder / "models" / model.name
    kept = out / "prepared.json"
    if (out / "finetune.json").exists():  # its last file
        _require_same(model, kept)
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, dump_json({"schema": PREPARED, "prepare": list(model.prepare)}))
        say(f"{model.name}: {model.made}")
        words = [sys.executable, "-m", "ncfast", *model.prepare, "--out", str(out), "--resume"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        done = subprocess.run(words, stdout=subprocess.DEVNULL, env=environment)
        if done.returncode:
            raise ExperimentError(
                f"{model.name}: its preparation ended with code {done.returncode}: {model.made}"
            )
    return str(out / "model")


def _require_same(model: Model, kept: Path) -> None:
    """Reject a model that another command made; folders of before that was kept are accepted."""
    made = read_json(kept, PREPARED)["prepare"] if kept.exists() else list(model.prepare)
    if made != list(model.prepare):
        raise ExperimentError(
            f"{model.name}: {kept.parent} was made by ncfast {' '.join(made)}, and the protocol "
            f"says {model.made}; expected another --out, or that folder removed"
        )
