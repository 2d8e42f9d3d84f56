"""The job behind ``ncfast evaluate``: models, benchmarks, intervals, paired differences."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import sealed_file
from ..language import LanguageModel
from .benchmarks import BENCHMARKS, Benchmark, make
from .controls import NoiseControl
from .data import DEFAULT_DATA, DataFolder
from .engine import BATCH_TOKENS, ModelScorer, Scorer, UniformScorer
from .errors import EvaluationError
from .inference import Estimate, compare, estimate
from .journal import Journal
from .records import Record
from .statistic import Statistic

__all__ = ["ANSWERS", "ATTRIBUTES", "SCHEMA", "Evaluation", "Settings", "evaluate"]

SCHEMA, ANSWERS = "ncfast-evaluation/1", "ncfast-evaluation-answers/1"
ATTRIBUTES = ("gender", "race", "religion", "all")
UNIFORM = "uniform"


@dataclass(frozen=True)
class Settings:
    """Say what to evaluate, and how.

    Attributes:
        on: benchmarks by name, or ``("all",)``: every one whose files are in the data.
        data: folder, file, ``demo:fairness`` or a ``pypi:`` spec.
        attribute: which bias: ``gender``, ``race``, ``religion`` or ``all``.
        uniform: also score a model that finds every token equally likely.
        noise: also score so many copies of the first model whose gendered head rows are turned at
            random, by as much as the second model's differ from them (15 degrees with one model).
        seed: of resamples and controls.
        resamples: of the bootstrap.
        batch_tokens: tokens of a forward pass, padding included.
    """

    on: tuple[str, ...] = ("all",)
    data: str = DEFAULT_DATA
    attribute: str = "gender"
    uniform: bool = False
    noise: int = 0
    seed: int = 0
    resamples: int = 2000
    batch_tokens: int = BATCH_TOKENS

    def __post_init__(self) -> None:
        """Reject settings that mean nothing."""
        if self.attribute not in ATTRIBUTES:
            expected = ", ".join(ATTRIBUTES)
            raise EvaluationError(f"attribute is {self.attribute!r}; expected one of {expected}")
        if not self.on:
            raise EvaluationError("on is empty; expected benchmarks or 'all'")
        if self.noise < 0 or self.resamples < 2 or self.batch_tokens < 1:
            raise EvaluationError(
                f"noise={self.noise}, resamples={self.resamples}, "
                f"batch_tokens={self.batch_tokens}; expected 0 or more, 2 or more, 1 or more"
            )
        for name in self.on:
            if name != "all":
                make(name)


@dataclass
class Evaluation:
    """Hold what was found, as ``evaluation.json`` and the items' file have it.

    Attributes:
        document: the content of ``evaluation.json``.
        records: the items' answers by (model, benchmark).
    """

    document: dict[str, Any]
    records: dict[tuple[str, str], list[Record]] = field(default_factory=dict)

    def scores(self, **keys: str) -> list[dict[str, Any]]:
        """Return the rows of ``scores`` with these values.

        Args:
            keys: such as ``benchmark="stereoset", metric="ss"``.

        Returns:
            The rows.
        """
        rows: list[dict[str, Any]] = self.document["scores"]
        return [row for row in rows if all(row[k] == v for k, v in keys.items())]


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
    settings = settings or Settings()
    data = DataFolder(settings.data)
    chosen, skipped = _read_all(settings, data, benchmarks, say)
    found: dict[tuple[str, str], list[Record]] = {}
    described: list[dict[str, Any]] = []
    seen: dict[str, str] = {}
    first: LanguageModel | None = None
    names = model_names(models)
    for number, (name, given) in enumerate(zip(names, models, strict=True)):
        say(f"loading {name}")
        model = load(given) if isinstance(given, str) else given
        digest = weights_digest(model)
        if digest in seen:
            raise EvaluationError(
                f"{name} and {seen[digest]} are the same weights under two names, so their "
                "difference is exactly 0 and says nothing; expected two models (a debiased class "
                "whose checkpoint was not loaded scores its base)"
            )
        seen[digest] = name
        described.append(_describe(name, model, digest))
        found |= _measure(name, digest, model, chosen, settings, out, say, skipped)
        if number == 0:
            first = model
            if settings.uniform:
                scorer = UniformScorer(model.tokenizer, model.kind, model.vocab_size)
                found |= _measure_with(UNIFORM, scorer, chosen, say, skipped)
                described.append({"name": UNIFORM, "kind": model.kind, "control": "uniform"})
        elif number == 1 and settings.noise:
            found |= _noise(first, model, chosen, settings, out, say, skipped, described)
    if len(models) == 1 and settings.noise and first is not None:
        found |= _noise(first, None, chosen, settings, out, say, skipped, described)
    return _finish(found, chosen, described, skipped, settings, names)


def model_names(models: Sequence[str | LanguageModel]) -> list[str]:
    """Return what to call each model: a folder by its last part, where that tells them apart.

    Args:
        models: specs or models.

    Returns:
        Different names.

    Raises:
        EvaluationError: two models have one name.

    Example:
        >>> model_names(["runs/base", "runs/debiased"]), model_names(["a/model", "b/model"])
        (['base', 'debiased'], ['a/model', 'b/model'])
    """
    names = [m if isinstance(m, str) else m.name for m in models]
    short = [Path(name).name if ":" not in name else name for name in names]
    names = short if len(set(short)) == len(short) else names
    if len(set(names)) < len(names):
        raise EvaluationError(f"two of the models {', '.join(names)} have one name")
    return names


def _read_all(
    settings: Settings,
    data: DataFolder,
    given: Mapping[str, Benchmark] | None,
    say: Callable[[str], None],
) -> tuple[dict[str, tuple[Benchmark, list[Any]]], list[dict[str, str]]]:
    """Read every benchmark before any model is loaded: bad data ends the run in seconds."""
    chosen: dict[str, tuple[Benchmark, list[Any]]] = {}
    skipped = []
    every = "all" in settings.on
    names = list(given) if given else (list(BENCHMARKS) if every else list(settings.on))
    for name in dict.fromkeys(names):
        benchmark = given[name] if given else make(name)
        if every and not given and not benchmark.available(data):
            skipped.append({"benchmark": name, "reason": f"its files are not below {data.spec}"})
            continue
        items = benchmark.read(data, settings.attribute)
        say(f"{name}: {len(items)} items")
        chosen[name] = benchmark, items
    if not chosen:
        raise EvaluationError(f"no benchmark has its files below {data.spec}")
    return chosen, skipped


def weights_digest(model: LanguageModel) -> str:
    """Return the SHA-256 of every parameter and buffer of a model, and of its head as it is."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


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


def _measure(
    name: str,
    digest: str,
    model: LanguageModel,
    chosen: Mapping[str, tuple[Benchmark, list[Any]]],
    settings: Settings,
    out: Path | None,
    say: Callable[[str], None],
    skipped: list[dict[str, str]],
) -> dict[tuple[str, str], list[Record]]:
    """Ask a model everything, or read what it has answered before."""
    folder = None if out is None else out / "answers" / f"{_slug(name)}-{digest[:12]}"
    journal = Journal(None if folder is None else folder / "journal.jsonl")
    scorer = ModelScorer(model, journal, settings.batch_tokens)
    return _measure_with(name, scorer, chosen, say, skipped, folder, digest, settings, journal)


def _measure_with(
    name: str,
    scorer: Scorer,
    chosen: Mapping[str, tuple[Benchmark, list[Any]]],
    say: Callable[[str], None],
    skipped: list[dict[str, str]],
    folder: Path | None = None,
    digest: str = "",
    settings: Settings | None = None,
    journal: Journal | None = None,
) -> dict[tuple[str, str], list[Record]]:
    found = {}
    for key, (benchmark, items) in chosen.items():
        if scorer.kind not in benchmark.kinds:
            reason = (
                f"{name} is {scorer.kind}; it takes {' or '.join(benchmark.kinds) or 'predictions'}"
            )
            skipped.append({"benchmark": key, "model": name, "reason": reason})
            continue
        if name == UNIFORM and key in ("seat", "sst2", "rte", "stsb", "cola", "mrpc"):
            continue
        path = None if folder is None else folder / f"{key}.json"
        identity = {"weights": digest, "items": _items_digest(items)}
        known = _read_answers(path, identity)
        if known is None:
            say(f"{name}: {key}")
            known = benchmark.measure(items, scorer)
            _write_answers(path, identity, known)
            if journal is not None:
                journal.clear()
        found[name, key] = known
    return found


def _items_digest(items: list[Any]) -> str:
    return hashlib.sha256("\n".join(map(repr, items)).encode()).hexdigest()


def _read_answers(path: Path | None, identity: Mapping[str, str]) -> list[Record] | None:
    if path is None or not path.exists():
        return None
    document = sealed_file.read_json(path, ANSWERS)
    if document.get("identity") != dict(identity):
        return None  # other data under the same name: asked anew
    return [Record.from_json(record) for record in document["records"]]


def _write_answers(path: Path | None, identity: Mapping[str, str], records: list[Record]) -> None:
    if path is None:
        return
    from ..reporting import write_atomically

    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"schema": ANSWERS, "identity": dict(identity)}
    write_atomically(
        path, sealed_file.dump_json({**document, "records": [r.to_json() for r in records]})
    )


def _noise(
    first: LanguageModel | None,
    second: LanguageModel | None,
    chosen: Mapping[str, tuple[Benchmark, list[Any]]],
    settings: Settings,
    out: Path | None,
    say: Callable[[str], None],
    skipped: list[dict[str, str]],
    described: list[dict[str, Any]],
) -> dict[tuple[str, str], list[Record]]:
    assert first is not None
    found: dict[tuple[str, str], list[Record]] = {}
    control = NoiseControl(first, second)
    for number in range(1, settings.noise + 1):
        name = f"{described[0]['name']}+noise-{number}"
        with control.turned(settings.seed * 1000 + number) as digest:
            found |= _measure(name, digest, first, chosen, settings, out, say, skipped)
        described.append(
            {"name": name, "kind": first.kind, "control": control.description, "weights": digest}
        )
    return found


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"


def _number(value: float | None) -> float | None:
    return value if value is not None and value == value else None  # NaN is null


def _finish(
    found: Mapping[tuple[str, str], list[Record]],
    chosen: Mapping[str, tuple[Benchmark, list[Any]]],
    described: list[dict[str, Any]],
    skipped: list[dict[str, str]],
    settings: Settings,
    names: list[str],
) -> Evaluation:
    statistics = {
        (model, key): chosen[key][0].statistics(records) for (model, key), records in found.items()
    }
    scores = [
        score_row(model, key, s, estimate(s, settings.resamples, settings.seed))
        for (model, key), several in statistics.items()
        for s in several
    ]
    differences = []
    for other in [d["name"] for d in described if d["name"] not in (names[0], UNIFORM)]:
        for key in chosen:
            mine = {s.key: s for s in statistics.get((names[0], key), [])}
            for s in statistics.get((other, key), []):
                if s.key in mine:
                    differences.append(
                        _difference_row(names[0], other, key, mine[s.key], s, settings)
                    )
    document = {
        "schema": SCHEMA,
        "settings": {**settings.__dict__, "on": list(settings.on)},
        "models": described,
        "scores": scores,
        "differences": differences,
        "skipped": skipped,
        "sources": {key: benchmark.source for key, (benchmark, _) in chosen.items()},
    }
    return Evaluation(json.loads(json.dumps(document, allow_nan=False)), dict(found))


def score_row(model: str, benchmark: str, s: Statistic, e: Estimate) -> dict[str, Any]:
    """Return a score as ``evaluation.json`` has it.

    Args:
        model, benchmark: their names.
        s: the statistic.
        e: its estimate.

    Returns:
        The row; an undefined value is null and its note says so.
    """
    notes = [s.note] if s.note else []
    if e.headroom is False:
        notes.insert(0, "no headroom")
    if _number(e.value) is None:
        notes.append("undefined")
    return {
        "model": model,
        "benchmark": benchmark,
        "subset": s.subset,
        "variant": s.variant,
        "metric": s.metric,
        "value": _number(e.value),
        "low": _number(e.low),
        "high": _number(e.high),
        "n": e.items,
        "clusters": e.clusters,
        "note": "; ".join(notes),
    }


def _difference_row(
    first: str, second: str, benchmark: str, one: Statistic, two: Statistic, settings: Settings
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "first": first,
        "second": second,
        "benchmark": benchmark,
        "subset": one.subset,
        "variant": one.variant,
        "metric": one.metric,
    }
    if list(one.items) != list(two.items):
        return row | {"value": None, "low": None, "high": None, "note": "other items were excluded"}
    d = compare(one, two, settings.resamples, settings.seed)
    return row | {
        "value": _number(d.value),
        "low": _number(d.low),
        "high": _number(d.high),
        "changed": d.changed,
        "p_value": d.p_value,
        "test": d.test,
        "note": "",
    }
