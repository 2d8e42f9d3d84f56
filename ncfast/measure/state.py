"""The file of a measurement: its statistics, and what they are the statistics of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import DataError
from ..running.identity import differences
from ..statistics import ClassStatistics
from .counters import Counters

STATE_SCHEMA = "ncfast-measure-state/1"
METADATA_KEY = "measure"


def load_state(
    path: Path, identity: Mapping[str, Any], device: torch.device | str = "cpu"
) -> tuple[ClassStatistics, Counters]:
    """Load statistics and counters of an earlier run of the same measurement.

    Where the file is of another model, text or settings, the ValueError names what differs.
    """
    try:
        stats = ClassStatistics.load(path, device)
    except DataError as error:
        raise DataError(f"{error}; start anew with --force, or in another folder") from None
    try:
        state = json.loads(stats.metadata[METADATA_KEY])
        counted, schema, found = state["counters"], state["schema"], state["identity"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise DataError(f"{path}: not the state of a measurement") from None
    if schema != STATE_SCHEMA:
        raise DataError(f"{path}: state of schema {schema}; this version reads {STATE_SCHEMA}")
    if not isinstance(found, dict):
        raise DataError(f"{path}: not the state of a measurement")
    try:
        counters = Counters.parse(counted)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    if counters.kept != stats.tokens:
        raise DataError(
            f"{path}: counters and statistics disagree: kept is {counters.kept}, and the classes "
            f"hold {stats.tokens} tokens"
        )
    if different := differences(found, identity):
        raise DataError(
            f"{path}: the state of another measurement: {'; '.join(different)}; "
            "choose another folder, or the same settings"
        )
    return stats, counters
