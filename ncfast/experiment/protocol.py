"""The protocol of an experiment: a TOML file, checked whole before anything is loaded."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..finetune import FinetuneSettings, TermSettings
from .errors import ExperimentError
from .fields import check_fields
from .parts import Arm, Contrast, Endpoint, Evaluation, Margin, Model

__all__ = [
    "Arm",
    "Contrast",
    "Endpoint",
    "Evaluation",
    "Margin",
    "Model",
    "Protocol",
    "load_protocol",
    "with_data",
]

SCHEMA = "ncfast-experiment/1"
# What an arm may set of its own: the rest of the training is the same in all of them.
TERMS = tuple(f.name for f in fields(TermSettings))
TRAINING = tuple(
    f.name
    for f in fields(FinetuneSettings)
    if f.name
    not in ("terms", "seed", "device", "progress", "measure_tokens", "recipe", "recipe_options")
)


@dataclass(frozen=True)
class Protocol:
    """Hold everything that is fixed before the first run."""

    title: str
    question: str
    texts: tuple[str, ...]  # trained on; ``get`` says where a stranger gets those that are no demo
    seeds: tuple[int, ...]  # of order, masks and dropout, one for each pair of runs
    training: Mapping[str, Any]  # fields of ``FinetuneSettings``, the same in every arm
    controls: Mapping[str, str]  # ``random`` or ``matched`` by name of the control set
    models: tuple[Model, ...]
    arms: tuple[Arm, ...]
    endpoints: tuple[Endpoint, ...]
    contrasts: tuple[Contrast, ...]
    margins: tuple[Margin, ...]
    evaluation: Evaluation
    notes: tuple[str, ...]  # sentences of the author, for the report: what the pilot was
    get: Mapping[str, str]
    digest: str  # SHA-256 of the file
    path: Path  # the file

    def arm(self, name: str) -> Arm:
        """Return the arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)

    def arms_of(self, model: Model) -> list[Arm]:
        """Return the arms run on a model, in the protocol's order."""
        return [arm for arm in self.arms if not model.arms or arm.name in model.arms]

    def seeds_of(self, model: Model) -> tuple[int, ...]:
        """Return the seeds run on a model."""
        return model.seeds or self.seeds

    def contrasts_of(self, model: Model) -> list[Contrast]:
        """Return the contrasts of which a model runs both arms."""
        arms = {arm.name for arm in self.arms_of(model)}
        return [c for c in self.contrasts if {c.arm, c.against} <= arms]

    def training_of(self, model: Model, arm: Arm) -> dict[str, Any]:
        """Return the settings of training: an arm's before a model's before the protocol's."""
        return {**self.training, **model.training, **arm.training}

    def asks(self, endpoint: str, arms: Sequence[str]) -> bool:
        """Tell whether an endpoint is evaluated on all of these arms; a late one is on its own."""
        late = next(e.late for e in self.endpoints if e.name == endpoint)
        return not late or set(arms) <= set(late)

    @property
    def tests(self) -> int:
        """Return how many tests the primary family has."""
        return sum(c.primary for c in self.contrasts) * sum(e.primary for e in self.endpoints)


def load_protocol(path: str | Path) -> Protocol:
    """Read and check a protocol in TOML; an unknown field, arm or endpoint is an
    ExperimentError.
    """
    path = Path(path)
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    raw = path.read_bytes()
    try:
        given = tomllib.loads(raw.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ExperimentError(f"{path.name}: not TOML ({error})") from error
    if given.pop("schema", None) != SCHEMA:
        raise ExperimentError(
            f"{path.name}: schema is not {SCHEMA!r}; expected it in the first line"
        )
    known = {f.name for f in fields(Protocol)} - {"digest", "path"}
    _only(path, "the protocol", given, known)
    tables_of = ("models", "arms", "endpoints", "contrasts", "margins")
    for key in tables_of:
        if not isinstance(given.get(key, []), list):
            raise ExperimentError(f"{path.name}: {key} is {given[key]!r}; expected [[{key}]]")
    plain = {k: v for k, v in given.items() if k not in (*tables_of, "evaluation")}
    check_fields(path.name, "the protocol", Protocol, plain)
    tables: dict[str, Any] = {
        key: tuple(_table(path, kind, key, entry) for entry in given.get(key, []))
        for key, kind in (
            ("models", Model),
            ("arms", Arm),
            ("endpoints", Endpoint),
            ("contrasts", Contrast),
            ("margins", Margin),
        )
    }
    protocol = Protocol(
        title=given.get("title", path.stem),
        question=given.get("question", ""),
        texts=tuple(given.get("texts", ())),
        seeds=tuple(given.get("seeds", range(8))),
        training=given.get("training", {}),
        controls=given.get("controls", {}),
        evaluation=_table(path, Evaluation, "evaluation", given.get("evaluation", {"data": {}})),
        notes=tuple(given.get("notes", ())),
        get=given.get("get", {}),
        digest=hashlib.sha256(raw).hexdigest(),
        path=path,
        **tables,
    )
    _check(protocol)
    return protocol


def with_data(protocol: Protocol, given: Sequence[str]) -> Protocol:
    """Return a protocol with other places, ``NAME=DIR`` each, for the files of benchmarks.

    Its digest stays, because items are compared by their content.
    """
    data = dict(protocol.evaluation.data)
    for entry in given:
        name, equals, place = entry.partition("=")
        if not equals or not place or name not in data:
            raise ExperimentError(
                f"--data {entry}: expected NAME=DIR with a name of {', '.join(sorted(data))}"
            )
        data[name] = place
    return replace(protocol, evaluation=replace(protocol.evaluation, data=data))


def _only(
    path: Path, where: str, given: Mapping[str, Any], known: Sequence[str] | set[str]
) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise ExperimentError(
            f"{path.name}: {where} has {', '.join(unknown)}; expected only "
            f"{', '.join(sorted(known))}"
        )


def _table(path: Path, kind: Any, key: str, entry: Any) -> Any:
    if not isinstance(entry, dict):
        raise ExperimentError(f"{path.name}: {key} is {entry!r}; expected a table")
    where = f"{key} {entry.get('name', entry.get('arm', ''))!r}"
    _only(path, where, entry, [f.name for f in fields(kind)])
    for f in fields(kind):
        if f.name not in entry and f.default is MISSING and f.default_factory is MISSING:
            raise ExperimentError(f"{path.name}: {where} lacks {f.name}")
    check_fields(path.name, where, kind, entry)
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()})


def _check(protocol: Protocol) -> None:
    """Reject what could only fail, or mislead, hours later."""
    name = protocol.path.name
    arms = [arm.name for arm in protocol.arms]
    endpoints = [endpoint.name for endpoint in protocol.endpoints]
    for what, names in (
        ("arms", arms),
        ("endpoints", endpoints),
        ("models", [model.name for model in protocol.models]),
    ):
        if not names or len(set(names)) < len(names):
            raise ExperimentError(f"{name}: {what} are {names}; expected some, of different names")
        if bad := [n for n in names if not n or set("/\\ ") & set(n) or n.startswith(".")]:
            raise ExperimentError(
                f"{name}: {what} has the name {bad[0]!r}; expected no slash, space"
            )
    if not protocol.texts or len(set(protocol.seeds)) < max(2, len(protocol.seeds)):
        raise ExperimentError(f"{name}: expected texts, and at least 2 different seeds")
    _only(protocol.path, "training", protocol.training, TRAINING)
    check_fields(name, "training", FinetuneSettings, protocol.training)
    for control, kind in protocol.controls.items():
        if kind not in ("random", "matched"):
            raise ExperimentError(
                f"{name}: controls has {control} = {kind!r}; expected 'random' or 'matched'"
            )
    for arm in protocol.arms:
        for what, values, settings, known in (
            ("terms", arm.terms, TermSettings, TERMS),
            ("training", arm.training, FinetuneSettings, TRAINING),
        ):
            where = f"{what} of the arm {arm.name!r}"
            _only(protocol.path, where, values, known)
            # A control set goes by its name alone: words = "matched".
            words = values.get("words") if what == "terms" else None
            single = {"words": [words]} if isinstance(words, str) else {}
            check_fields(name, where, settings, {**values, **single})
        if arm.of and (arm.of not in arms or protocol.arm(arm.of).of or arm.terms):
            raise ExperimentError(
                f"{name}: the arm {arm.name!r} is of {arm.of!r}; expected a trained arm, no terms"
            )
    for model in protocol.models:
        _check_model(protocol, model, arms)
    for contrast in protocol.contrasts:
        if missing := {contrast.arm, contrast.against} - set(arms):
            raise ExperimentError(f"{name}: a contrast names {sorted(missing)}; expected {arms}")
        if contrast.primary and contrast.positive:
            raise ExperimentError(
                f"{name}: the contrast of {contrast.arm!r} and {contrast.against!r} is primary "
                "and a positive control; expected one of them"
            )
        one, two = (_trained_as(protocol, n) for n in (contrast.arm, contrast.against))
        if one != two:
            raise ExperimentError(
                f"{name}: {contrast.arm!r} and {contrast.against!r} train differently, "
                f"{one} and {two}, so that seeds do not pair them"
            )
    for margin in protocol.margins:
        if margin.endpoint not in endpoints or margin.scale not in ("difference", "ratio"):
            raise ExperimentError(
                f"{name}: a margin of {margin.endpoint!r} by {margin.scale!r}; expected an "
                "endpoint, and 'difference' or 'ratio'"
            )
    for endpoint in protocol.endpoints:
        where = f"{name}: the endpoint {endpoint.name!r}"
        if endpoint.benchmark not in ("perplexity", *protocol.evaluation.data):
            raise ExperimentError(f"{where} is of {endpoint.benchmark!r}, which has no data")
        if endpoint.good not in ("low", "high", "none"):
            raise ExperimentError(f"{where}: good is {endpoint.good!r}; expected low, high or none")
        if endpoint.primary and (endpoint.late or endpoint.control):
            raise ExperimentError(f"{where} is primary; expected neither late nor a control")
        if unknown := set(endpoint.late) - set(arms):
            raise ExperimentError(f"{where} names the arms {sorted(unknown)}; expected {arms}")


def _trained_as(protocol: Protocol, name: str) -> tuple[Any, Any]:
    arm = protocol.arm(name)
    arm = protocol.arm(arm.of) if arm.of else arm
    return dict(arm.training), arm.texts


def _check_model(protocol: Protocol, model: Model, arms: Sequence[str]) -> None:
    name = protocol.path.name
    if bool(model.spec) == bool(model.prepare):
        raise ExperimentError(
            f"{name}: the model {model.name!r} needs either a spec or what prepares it"
        )
    if model.prepare and (model.prepare[0] != "finetune" or "--out" in model.prepare):
        raise ExperimentError(
            f"{name}: the model {model.name!r} is prepared by {model.prepare[0]!r}; expected "
            "'finetune' and its arguments, without --out"
        )
    if unknown := set(model.arms) - set(arms):
        raise ExperimentError(f"{name}: the model {model.name!r} names the arms {sorted(unknown)}")
    where = f"training of the model {model.name!r}"
    _only(protocol.path, where, model.training, TRAINING)
    check_fields(name, where, FinetuneSettings, model.training)
    chosen = {arm.name for arm in protocol.arms_of(model)}
    for arm in protocol.arms_of(model):
        if arm.of and arm.of not in chosen:
            raise ExperimentError(
                f"{name}: the model {model.name!r} has the arm {arm.name!r}, but not the "
                f"{arm.of!r} that it is made of"
            )
