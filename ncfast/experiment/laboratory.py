"""Where cells are run: trained, evaluated, kept, each whole or not at all."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..fairness.answers import weights_digest
from ..finetune import FinetuneSettings, TermSettings, finetune
from ..finetune.model import save_model
from ..language import LanguageModel
from ..reporting import strict, write_atomically
from ..sealed_file import dump_json, read_json
from ..training.log import read_log
from .cells import BASE, Cell, decisive, digests_of_words
from .controls import Words
from .errors import ExperimentError
from .examiner import Examiner
from .local_files import digests_of_files, files_of, is_same, told_change
from .protocol import Arm, Endpoint, Model, Protocol
from .repeated import made_with
from .untrained import change_weights

__all__ = ["Laboratory"]

SCHEMA = "ncfast-experiment-cell/1"
Say = Callable[[str], None]


class Laboratory:
    """Run cells of a protocol, each whole or not at all, and read back what is done.

    The folder is of models, word sets and cells; ``say`` is told what is going on, a line at a
    time.
    """

    def __init__(self, protocol: Protocol, folder: Path, device: str, say: Say) -> None:
        self.protocol, self.folder, self.device, self.say = protocol, folder, device, say
        self.examiner = Examiner(protocol)
        self.taken: list[str] = []  # cells that were there, and were not run now

    def path(self, cell: Cell) -> Path:
        """Return the folder of a cell."""
        return self.folder / "cells" / cell.model / cell.arm / f"seed-{cell.seed}"

    def read(self, cell: Cell, file: str = "cell.json") -> dict[str, Any] | None:
        """Return what a cell found, or None where it has not been run."""
        path = self.path(cell) / file
        return read_json(path, SCHEMA) if path.exists() else None

    def identity(self, cell: Cell, model: Model, base: str, words: Words) -> dict[str, Any]:
        """Return everything that decides what a cell finds."""
        found = {
            "base": base,
            "words": digests_of_words(words),
            "items": self.examiner.digests(),
            **self.asked(cell, model),
        }
        return json.loads(json.dumps(found, default=str))

    def asked(self, cell: Cell, model: Model) -> dict[str, Any]:
        """Return what of a cell's identity the protocol and the files here say, without a model."""
        protocol, arm = self.protocol, None if cell.arm == BASE else self.protocol.arm(cell.arm)
        of = asdict(protocol.arm(arm.of)) if arm is not None and arm.of else None
        like = None if arm is None else arm.options.get("like")
        texts = protocol.texts if arm is None else arm.texts or protocol.texts
        known = {
            "arm": None if arm is None else asdict(arm),
            "of": of,
            "like": None if like is None else asdict(protocol.arm(like)),
            "seed": cell.seed,
            "training": {**protocol.training, **model.training},
            "texts": texts,
            "measured": protocol.texts,
            # Not passed to all that reads them, once: what was found without it is another cell.
            "text_column": protocol.text_column,
            "attribute": protocol.evaluation.attribute,
            "endpoints": [asdict(e) for e in protocol.endpoints if not e.late],
            "nc_tokens": protocol.evaluation.nc_tokens,
            "resamples": protocol.evaluation.resamples,
            "files": self._files(arm, model),
        }
        return json.loads(json.dumps(known, default=str))

    def _files(self, arm: Arm | None, model: Model) -> dict[str, str]:
        """Return digests of the files here that a cell is made of, of its own and others' arms."""
        protocol, arm = self.protocol, arm or Arm(BASE)
        others = [protocol.arm(name) for name in (arm.of, arm.options.get("like")) if name]
        named = list(protocol.texts)  # collapse is measured on them
        for one in (arm, *others):
            texts = one.texts or protocol.texts
            named += files_of(one, texts, protocol.training_of(model, one))
        return digests_of_files(named)

    def run(self, cell: Cell, model: Model, spec: str, base: str, words: Words) -> dict[str, Any]:
        """Run a cell, or return what it has found before, the content of its ``cell.json``.

        ``spec`` is where the base checkpoint is, ``base`` the digest of its weights.
        """
        identity = self.identity(cell, model, base, words)
        folder, known, made = self.path(cell), self.read(cell), None
        if known is not None and is_same(known["identity"], identity):
            waiting = self._waiting(cell, known, lambda c: self.identity(c, model, base, words))
            if not waiting or (folder / "model").is_dir():
                shutil.rmtree(folder / "train", ignore_errors=True)
                self.taken.append(cell.name)
                return known
            self.say(f"{cell.name}: made again for {', '.join(waiting)}: its model was not kept")
            made = self._made(cell, model, spec, words)
            if weights_digest(made[0]) == known["weights"]:
                save_model(made[0], folder / "model")
                shutil.rmtree(folder / "train", ignore_errors=True)
                return known
            self.say(f"{cell.name}: its weights are not those of before; it is evaluated anew")
            (folder / "cell.json").unlink()
        elif known is not None:
            self.say(f"{cell.name}: {told_change(known['identity'], identity)}; it is run anew")
            shutil.rmtree(folder)
        started = None if folder.exists() else time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        self.say(f"{cell.name}: running")
        trained, training = made or self._made(cell, model, spec, words)
        found: dict[str, Any] = {"schema": SCHEMA, "cell": cell.name, "identity": identity}
        found["training"] = training
        arm = self._trained_arm(cell)
        settings = self.settings(cell, arm, model, words)
        texts = arm.texts or self.protocol.texts
        found |= self.examiner.examine(trained, training, words, settings, texts)
        if self._needed_later(cell):
            save_model(trained, folder / "model")
        found["made"] = made_with(self.device)
        found["seconds"] = None if started is None else time.monotonic() - started
        write_atomically(folder / "cell.json", dump_json(found))
        shutil.rmtree(folder / "train", ignore_errors=True)
        return read_json(folder / "cell.json", SCHEMA)

    def late_identity(self, main: Mapping[str, Any], endpoint: Endpoint) -> dict[str, Any]:
        """Return what decides a late endpoint, the items apart, which need its data."""
        asked = decisive(json.loads(json.dumps(asdict(endpoint))))
        resamples = self.protocol.evaluation.resamples
        return {"weights": main["weights"], "endpoint": asked, "resamples": resamples}

    def run_late(self, cell: Cell, endpoint: Endpoint) -> dict[str, Any]:
        """Evaluate a kept model on an endpoint that takes long, or return what it has found."""
        file = f"late-{endpoint.name}.json"
        kept, main = self._kept(cell), self.read(cell)
        assert main is not None
        identity = {
            "items": self.examiner.digests(late=True)[endpoint.benchmark],
            **self.late_identity(main, endpoint),
        }
        known = self.read(cell, file)
        if known is not None and known["identity"] == identity:
            return known
        self.say(f"{cell.name}: {endpoint.name}")
        model = self._load(kept, cell)
        found = self.examiner.score(model, endpoint)
        document = {"schema": SCHEMA, "identity": identity, "endpoint": found}
        write_atomically(self.path(cell) / file, dump_json(strict(document)))
        return read_json(self.path(cell) / file, SCHEMA)

    def _load(self, spec: str, cell: Cell) -> LanguageModel:
        """Load a model in the dtype of a cell's training, in which trained ones are evaluated."""
        training = self.protocol.training_of(self._model_of(cell), self._trained_arm(cell))
        dtype = training.get("dtype", FinetuneSettings.dtype)
        return LanguageModel.load(spec, self.device, getattr(torch, dtype), progress=False)

    def _model_of(self, cell: Cell) -> Model:
        return next(m for m in self.protocol.models if m.name == cell.model)

    def _trained_arm(self, cell: Cell) -> Arm:
        """Return the arm that a cell's weights were trained by: its own, or the one it is of."""
        arm = Arm(BASE) if cell.arm == BASE else self.protocol.arm(cell.arm)
        return self.protocol.arm(arm.of) if arm.of else arm

    def _kept(self, cell: Cell) -> str:
        kept = self.path(cell) / "model"
        if self.read(cell) is None:
            raise ExperimentError(f"{cell.name} has not been run, and another cell is made of it")
        if not kept.is_dir():
            raise ExperimentError(
                f"{cell.name} was kept without its model, which is asked for now; expected the "
                f"folder {self.path(cell)} removed, so that the same command trains it again"
            )
        return str(kept)

    def _head(self, cell: Cell) -> torch.Tensor:
        return self._load(self._kept(cell), cell).head_weight

    def _needed_later(self, cell: Cell) -> bool:
        return any(
            cell.arm in (arm.of, arm.options.get("like")) for arm in self.protocol.arms
        ) or any(cell.arm in endpoint.late for endpoint in self.protocol.endpoints)

    def _waiting(
        self, cell: Cell, main: Mapping[str, Any], identity: Callable[[Cell], dict[str, Any]]
    ) -> list[str]:
        """Return what needs the model of a cell and is not done: other cells, late endpoints.

        ``main`` is what the cell found, ``identity`` what decides another one.
        """
        protocol, found = self.protocol, []
        model = self._model_of(cell)
        for arm in protocol.arms_of(model):
            if cell.arm not in (arm.of, arm.options.get("like")):
                continue
            other = Cell(cell.model, arm.name, cell.seed)
            known = self.read(other)
            is_done = known is not None and is_same(known["identity"], identity(other))
            if cell.seed in protocol.seeds_of(model, arm.name) and not is_done:
                found.append(other.name)
        for endpoint in (e for e in protocol.endpoints if cell.arm in e.late):
            late = self.read(cell, f"late-{endpoint.name}.json") or {"identity": {}}
            if not self.late_identity(main, endpoint).items() <= late["identity"].items():
                found.append(endpoint.name)
        return found

    def _made(
        self, cell: Cell, model: Model, spec: str, words: Words
    ) -> tuple[LanguageModel, dict[str, Any]]:
        """Return the model of a cell, and what its training said."""
        if cell.arm == BASE:
            return self._load(spec, cell), {}
        arm = self.protocol.arm(cell.arm)
        if not arm.of:
            return self._trained(cell, arm, model, spec, words)
        before = Cell(cell.model, arm.of, cell.seed)
        trained = self._load(self._kept(before), before)
        of = self.protocol.arm(arm.of)
        trained, said = change_weights(
            trained,
            arm,
            cell.seed,
            words[self.protocol.evaluation.words],
            settings=self.settings(cell, of, model, words),
            texts=of.texts or self.protocol.texts,
            head_of=lambda name: self._head(Cell(cell.model, name, cell.seed)),
        )
        return trained, {"of": before.name, **said}

    def _trained(
        self, cell: Cell, arm: Arm, model: Model, spec: str, words: Words
    ) -> tuple[LanguageModel, dict[str, Any]]:
        settings = self.settings(cell, arm, model, words)
        out = self.path(cell) / "train"
        texts = list(arm.texts or self.protocol.texts)
        result = finetune(spec, texts, out, settings, resume=True)
        log = read_log(out / "steps.jsonl")
        terms = sorted(k for k in log[-1] if k.endswith("/value"))
        window = max(1, len(log) // 10)  # one step's loss is noise

        def mean(key: str, lines: list[dict[str, Any]]) -> float:
            return sum(line[key] for line in lines) / len(lines)

        return result.model, {
            "steps": len(log),
            "perplexity": result.report["perplexity"]["after"],
            "held_out": result.report["held_out"],
            "cross_entropy": mean("cross_entropy", log[-window:]),
            "terms": {k: [mean(k, log[:window]), mean(k, log[-window:])] for k in terms},
        }

    def settings(self, cell: Cell, arm: Arm, model: Model, words: Words) -> FinetuneSettings:
        """Return the settings of a trained cell: the same in every arm but for recipe and terms."""
        terms: dict[str, Any] = dict(arm.terms)
        named = terms.get("words", (self.protocol.evaluation.words,))
        named = (named,) if isinstance(named, str) else tuple(named)
        terms["words"] = tuple(words.get(name, name) for name in named)
        training = self.protocol.training_of(model, arm)
        if training.get("mask_words") is not None:  # the same masks whatever an arm's words are
            training.setdefault("mask_words_of", tuple(words.values()))
        if arm.recipe != "plain":
            training["recipe_options"] = dict(arm.options)
            training["recipe"] = arm.recipe
        given: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in training.items()
        }
        return FinetuneSettings(
            **given,
            terms=TermSettings(**terms),
            seed=cell.seed,
            device=self.device,
            measure_tokens=0,
            progress=False,
        )
