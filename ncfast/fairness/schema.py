"""What ``evaluation.json`` holds, as JSON Schema for readers in other languages."""

from __future__ import annotations

from typing import Any

from .evaluation import SCHEMA

__all__ = ["evaluation_schema"]

_TEXT = {"type": "string"}
_VALUE = {"type": ["number", "null"]}
_COUNT = {"type": "integer", "minimum": 0}
_PLACE = dict.fromkeys(("benchmark", "subset", "variant", "metric"), _TEXT)
_ENDS = dict.fromkeys(("value", "low", "high"), _VALUE)


def _rows(properties: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    row = {"type": "object", "properties": properties | later, "required": list(properties)}
    return {"type": "array", "items": row}


def evaluation_schema() -> dict[str, Any]:
    """Return the schema of version 1.

    >>> sorted(evaluation_schema()["required"])[:3]
    ['differences', 'models', 'schema']
    """
    sizes = {"n": _COUNT, "clusters": _COUNT, "note": _TEXT}
    scores = _rows({"model": _TEXT, **_PLACE, **_ENDS, **sizes}, {})
    pair = {"first": _TEXT, "second": _TEXT, **_PLACE, **_ENDS, "note": _TEXT}
    tests = {"changed": _VALUE, "p_value": _VALUE, "test": {"type": ["string", "null"]}}
    properties = {
        "schema": {"const": SCHEMA},
        "settings": {"type": "object"},
        "models": _rows({"name": _TEXT}, {}),
        "scores": scores,
        "differences": _rows(pair, tests) | {"description": "second less first, paired by item"},
        "skipped": _rows({"benchmark": _TEXT, "reason": _TEXT}, {}),
        "readings": {"type": "object", "additionalProperties": _TEXT},
        "sources": {"type": "object", "additionalProperties": _TEXT},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name != "readings"],  # later than version 1
    }
