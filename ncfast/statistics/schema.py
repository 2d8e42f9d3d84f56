"""What a file of statistics says of itself, as JSON Schema: the JSON text of ``configuration``."""

from __future__ import annotations

from typing import Any

from .file import FORMAT

__all__ = ["configuration_schema"]

_SIZE = {"type": "integer", "minimum": 1, "maximum": 2**63 - 1}


def configuration_schema() -> dict[str, Any]:
    """Return the schema of version 2: of the string ``configuration`` of the safetensors header.

    >>> configuration_schema()["properties"]["dtype"]
    {'enum': ['float32', 'float64']}
    """
    properties = {
        "num_classes": _SIZE,
        "dim": _SIZE,
        "classes": {"anyOf": [_SIZE, {"type": "null"}]},  # how many are kept; null: all
        "scatter": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        "dtype": {"enum": ["float32", "float64"]},
        "nan": {"enum": ["raise", "drop"]},
        "diagonal": {"type": "boolean"},
        "feature_roundoff": {"type": "number", "minimum": 0, "maximum": 1},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": FORMAT,
        "type": "object",
        "properties": properties,
        "required": list(properties),
    }
