"""The job behind ``ncfast evaluate``: models, benchmarks, intervals, paired differences."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import durable_file
from ..language import LanguageModel
from .answers import (
    AnswerFile,
    changed_parts,
    identity_digest,
    items_digest,
    reading_digest,
)
from .asking import Answers, Question, is_asked
from .benchmarks import Benchmark
from .beside import ask_all, processes_for
from .controls import NoiseControl, UniformScorer
from .data import DataFolder
from .engine import require_head
from .errors import EvaluationError
from .evaluation import UNIFORM, Evaluation, build_evaluation
from .records import Record
from .selection import Selection, select_benchmarks
from .settings import Settings

__all__ = ["Evaluation", "Settings", "evaluate", "model_names"]


@durable_file.releases_claims
def evaluate(
    models: Sequence[str | LanguageModel],
    settings: Settings | None = None,
    out: Path | None = None,
    load: Callable[[str], LanguageModel] = LanguageModel.load,
    say: Callable[[str], None] = lambda text: None,
    benchmarks: Mapping[str, Benchmark] | None = None,
) -> Evaluation:
    """Score language models on fairness benchmarks; the second and later against the first.

    Args:
        models: specs, or models in memory; their names must differ, and so must their weights.
        settings: what and how.
        out: folder where answers are kept as they come: a killed run goes on there.
        load: makes a model of a spec.
        say: is told what is going on, a line at a time.
        benchmarks: made by the caller, by name, in place of those of ``settings.on``.

    Returns:
        Scores with intervals, and paired differences.

    Raises:
        EvaluationError: a benchmark, its data or a model that cannot be evaluated; two names for
            the same weights.
    """
    if is_asked():  # a module of the model's evaluates when it is imported
        raise EvaluationError(
            "evaluate was called while a model was handed to another process; expected the call "
            "under if __name__ == '__main__' or in a function"
        )
    settings = settings or Settings()
    names = model_names(models)
    data = DataFolder(settings.data)
    run = _Run(settings, select_benchmarks(settings, data, benchmarks, say), out, say)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        durable_file.claim(out)
    # One model at a time in memory, unless noise takes the first one's rows.
    first: LanguageModel | None = None
    model: LanguageModel | None = None
    for number, (name, given) in enumerate(zip(names, models, strict=True)):
        model = None
        say(f"loading {name}")
        model = load(given) if isinstance(given, str) else given
        run.model(name, model)
        if number == 0:
            first = model if settings.noise else None
            if settings.uniform:
                run.uniform(model)
        if first is not None and number == min(1, len(models) - 1):
            run.noise(names[0], first, model if number else None)
            first = None
    return build_evaluation(run.found, run.described, run.selection, settings)


def model_names(models: Sequence[str | LanguageModel]) -> list[str]:
    """Return what to call each model: a folder by its own name, where that tells them apart.

    >>> model_names(["runs/base", "runs/debiased"]), model_names(["a/model", "b/model"])
    (['base', 'debiased'], ['a/model', 'b/model'])
    """
    if not models:
        raise EvaluationError("no model given; expected one or more")
    names = [m if isinstance(m, str) else m.name for m in models]
    short = [_short(name) for name in names]
    names = short if len(set(short)) == len(short) else names
    if len(set(names)) < len(names):
        raise EvaluationError(f"two of the models {', '.join(names)} have one name")
    if UNIFORM in names:
        raise EvaluationError(f"a model is called {UNIFORM!r}, as the control is; expected another")
    return names


def _short(name: str) -> str:
    if ":" in name:
        return name
    path = Path(name)
    return (path.resolve() if path.is_dir() else path).name or name  # "." has a name too


@dataclass
class _Run:
    """Hold what is asked of every model, and what they have answered so far."""

    settings: Settings
    selection: Selection
    out: Path | None
    say: Callable[[str], None]
    found: dict[tuple[str, str], list[Record]] = field(default_factory=dict)
    described: list[dict[str, Any]] = field(default_factory=list)

    def model(self, name: str, model: LanguageModel) -> None:
        """Ask a model everything; reject weights that were asked before."""
        digest = identity_digest(model)
        if parts := changed_parts(model):
            self.say(f"{name}: {parts[0]} has a hook or method of yours: no answers are kept of it")
        seen = next((m["name"] for m in self.described if m.get("weights") == digest), None)
        if seen is not None:
            raise EvaluationError(
                f"{name} and {seen} are the same weights under two names, so their "
                "difference is exactly 0 and says nothing; expected two models (a debiased class "
                "whose checkpoint was not loaded scores its base)"
            )
        self.described.append(_describe(name, model, digest))
        self._ask(name, model, digest)

    def uniform(self, model: LanguageModel) -> None:
        """Score the control that finds every token of a model's vocabulary alike."""
        scorer = UniformScorer(model.tokenizer, model.kind, model.vocab_size)
        for key, chosen in self.selection.chosen.items():
            if chosen.benchmark.asks_only_tokens and scorer.kind in chosen.benchmark.kinds:
                self.found[UNIFORM, key] = chosen.benchmark.measure(chosen.items, scorer)
        self.described.append({"name": UNIFORM, "kind": model.kind, "control": "uniform"})

    def noise(self, name: str, first: LanguageModel, second: LanguageModel | None) -> None:
        """Score copies of the first model with head rows turned at random."""
        control, base = NoiseControl(first, second), self.described[0]["weights"]
        for number in range(1, self.settings.noise + 1):
            copy = f"{name}+noise-{number}"
            with control.turned(self.settings.seed * 1000 + number) as rows:
                # Of all weights: another model may have the same head on another body.
                digest = hashlib.sha256(f"{base} {rows}".encode()).hexdigest()
                self._ask(copy, first, digest)
            about = {"control": control.description, "weights": digest}
            self.described.append({"name": copy, "kind": first.kind, **about})

    def _ask(self, name: str, model: LanguageModel, digest: str) -> None:
        """Ask a model every benchmark that takes it, or read what it has answered before."""
        require_head(model)
        folder = None
        if self.out is not None:
            asked = hashlib.sha256(f"{digest} {reading_digest(model)}".encode()).hexdigest()
            folder = self.out / "answers" / f"{_slug(name)}-{asked[:12]}"
            folder.mkdir(parents=True, exist_ok=True)
        files: dict[str, AnswerFile] = {}
        known: dict[str, list[Record]] = {}
        unknown: list[Question] = []
        notes: dict[str, None] = {}
        for key, chosen in self.selection.chosen.items():
            if not self.selection.takes(key, name, model):
                continue
            path, journal = (
                None if folder is None else folder / f"{key}{end}" for end in (".json", ".jsonl")
            )
            asked_of = [*chosen.benchmark.settings, *chosen.items]
            files[key] = AnswerFile(path, digest, items_digest(asked_of))
            if (records := files[key].read()) is not None:
                known[key] = records
            else:
                unknown.append(Question(key, chosen.benchmark, chosen.items, journal))

        def keep(question: Question, answers: Answers) -> None:
            known[question.key] = answers[0]
            notes.update(dict.fromkeys(answers[1]))
            files[question.key].write(answers[0])
            if question.journal is not None:  # what it held is in a finished file
                question.journal.unlink(missing_ok=True)

        def begin(key: str) -> Progress:
            self.say(f"{name}: {key}")
            return Progress(f"{name}: {key}", self.say)

        every = [self.selection.chosen[key].benchmark for key in files]
        ask_all(
            model,
            unknown,
            self.settings.batch_tokens,
            processes_for(model, every),  # by all, so that a run that goes on has the same bits
            keep=keep,
            progress=begin,
            say=self.say,
        )
        self.found |= {(name, key): known[key] for key in files}
        for note in notes:
            self.say(note)


class Progress:
    """Say how far a benchmark is, every so many seconds.

    >>> progress = Progress("base: stereoset", print, seconds=0)
    >>> progress(64, 128)
    base: stereoset: 64 of 128 inputs, 0 s
    """

    def __init__(self, what: str, say: Callable[[str], None], seconds: float = 30) -> None:
        self._what, self._say, self._seconds = what, say, seconds
        self._start = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Note how many inputs are computed."""
        now = time.monotonic()
        if now - self._last >= self._seconds and done < total:
            self._last = now
            self._say(f"{self._what}: {done:,} of {total:,} inputs, {now - self._start:.0f} s")


def _describe(name: str, model: LanguageModel, digest: str) -> dict[str, Any]:
    return {
        "name": name,
        "kind": model.kind,
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "parameters": sum(p.numel() for p in model.model.parameters()),
        "weights": digest,
        "notes": list(model.notes),
    }


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
