"""How a protocol is read: a TOML file, checked whole before anything is loaded."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

from .checks import check_protocol, only
from .errors import ExperimentError
from .fields import check_fields
from .parts import Arm, Contrast, Endpoint, Evaluation, Margin, Model, Protocol

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
    only(path, "the protocol", given, known)
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
        threads=given.get("threads", 0),
        **tables,
    )
    check_protocol(protocol)
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


def _table(path: Path, kind: Any, key: str, entry: Any) -> Any:
    if not isinstance(entry, dict):
        raise ExperimentError(f"{path.name}: {key} is {entry!r}; expected a table")
    where = f"{key} {entry.get('name', entry.get('arm', ''))!r}"
    only(path, where, entry, [f.name for f in fields(kind)])
    for f in fields(kind):
        if f.name not in entry and f.default is MISSING and f.default_factory is MISSING:
            raise ExperimentError(f"{path.name}: {where} lacks {f.name}")
    check_fields(path.name, where, kind, entry)
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()})
