"""Several models of one measurement: what to call them, and where they stand in a training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError


def names_of(models: Sequence[str]) -> list[str]:
    """Return short names that tell models apart: the last parts of each path, as many as it takes.

    Two of the same name are a DataError.

    >>> names_of(["a/checkpoint-1", "a/checkpoint-2"]), names_of(["a/model", "b/model"])
    (['checkpoint-1', 'checkpoint-2'], ['a-model', 'b-model'])
    """
    parts = [model.rstrip("/").replace(":", "-").split("/") for model in models]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["-".join(filter(None, part[-depth:])) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise DataError(f"the models {', '.join(models)}: expected each of them once")


def steps_of(models: Sequence[str]) -> list[int] | None:
    """Read the training step of every checkpoint, ``global_step`` of its ``trainer_state.json``.

    None where one has none; a DataError where such a file cannot be read, or two are of one step.

    >>> steps_of(["demo:minilm"]) is None
    True
    """
    steps = []
    for model in models:
        path = Path(model).expanduser() / "trainer_state.json"
        if not path.is_file():
            return None
        try:
            step = json.loads(path.read_text(encoding="utf-8"))["global_step"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise DataError(f"{path}: holds no global_step; expected a trainer's state") from None
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise DataError(f"{path}: global_step is {step!r}; expected a whole number") from None
        steps.append(step)
    if len(set(steps)) < len(steps):
        raise DataError(f"two checkpoints are of one step: {steps}; expected different ones")
    return steps
