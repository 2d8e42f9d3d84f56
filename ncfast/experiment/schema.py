"""What a protocol holds, as JSON Schema: from the dataclasses that its tables become."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .parts import Protocol
from .protocol import SCHEMA

__all__ = ["protocol_schema"]

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}
_MADE = {"digest", "path"}  # fields of a protocol that no file holds
_OPTIONAL = {f.name for f in fields(Protocol)}  # each has a default where the file is read


def protocol_schema() -> dict[str, Any]:
    """Return the schema of version 1, of the TOML as any library reads it.

    >>> schema = protocol_schema()
    >>> schema["required"], schema["properties"]["seeds"]
    (['schema'], {'type': 'array', 'items': {'type': 'integer'}})
    """
    table = _table(Protocol, _OPTIONAL | _MADE)
    table["properties"] = {"schema": {"const": SCHEMA}} | {
        name: value for name, value in table["properties"].items() if name not in _MADE
    }
    table["required"] = ["schema"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": SCHEMA, **table}


def _table(kind: type, optional: set[str]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    needed = [
        f.name
        for f in fields(kind)
        if f.default is MISSING and f.default_factory is MISSING and f.name not in optional
    ]
    properties = {f.name: _value(hints[f.name]) for f in fields(kind)}
    table = {"type": "object", "properties": properties, "additionalProperties": False}
    return table | ({"required": needed} if needed else {})


def _value(hint: Any) -> dict[str, Any]:
    """Return the schema of a field's type, as ``check_fields`` takes values of it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_value(one) for one in inner]}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is tuple:
        return {"type": "array", "items": _value(inner[0])}
    if origin is not None and issubclass(origin, Mapping):
        values = {} if inner[1] is Any else {"additionalProperties": _value(inner[1])}
        return {"type": "object"} | values
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    return _table(hint, set()) if hasattr(hint, "__dataclass_fields__") else {}
