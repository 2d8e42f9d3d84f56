"""Whether what a folder holds is of the same run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def differences(found: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Name what differs between a file's description of a run and this run's, a phrase per key.

    >>> differences({"seed": 1}, {"seed": 2})
    ['seed is 1 there, 2 here']
    """
    return [
        f"{key.replace('_', ' ')} is {_short(found.get(key))} there, {_short(here.get(key))} here"
        for key in dict.fromkeys((*here, *found))
        if found.get(key) != here.get(key)
    ]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
