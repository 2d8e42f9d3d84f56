"""The record of a run: one line of JSON per step, cut back to the checkpoint on resuming."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..reporting.document import write_atomically


class StepLog:
    """Append one line per step to a file; None for a path keeps nothing.

    ``done`` steps stand; lines of later ones, of a run that was killed, are removed.

    >>> StepLog(None).write({"step": 1})
    """

    def __init__(self, path: Path | None, done: int = 0) -> None:
        self.path, self._file = path, None
        if path is None:
            return
        kept = [line for line in read_log(path) if line["step"] <= done] if done else []
        steps = [line["step"] for line in kept]
        for before, after in itertools.pairwise([*steps, done + 1]):
            if after != before + 1:
                raise DataError(f"{path} lacks step {before + 1}; remove it to do without it")
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(path, text)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  closed by close()

    def write(self, line: Mapping[str, Any]) -> None:
        """Write one line, at once; what is not finite becomes null.

        >>> StepLog(None).write({"step": 1})
        """
        if self._file is not None:
            self._file.write(json.dumps(_finite(line), allow_nan=False) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Make what was written survive a power cut, before a checkpoint relies on it."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def read_log(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the lines of a log, if there is one; a last line that a kill cut short is left out.

    Another damaged line is a DataError.

    >>> read_log("no-such-file")
    []
    """
    try:
        text = Path(path).read_bytes().decode("utf-8", "replace")  # damage is found below
        lines = text.split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or type(found.get("step")) is not int:
        raise DataError(f"{where} is no line of a log of steps; remove the file to do without it")
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
