"""The file a state is kept in: sealed safetensors, read through one schema, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from .. import sealed_file
from ..errors import DataError
from .state import State

__all__ = ["FORMAT", "Found", "header_of", "load", "read", "save", "tensors_of"]

Made = TypeVar("Made", bound=State)

FORMAT = "ncfast-class-statistics/2"

_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_LARGEST = 2**63 - 1


def save(state: State, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a state and strings to keep with it."""
    sealed_file.save_tensors(path, tensors_of(state), header_of(state, metadata, "save"), FORMAT)


def header_of(state: State, metadata: Mapping[str, str], method: str) -> dict[str, str]:
    """Return what a file says of a state, and the strings to keep with it."""
    for key, value in metadata.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise TypeError(
                f"ClassStatistics.{method}: metadata[{key!r}] is {type(value).__name__}; "
                "expected strings by strings"
            )
    kept = {"nan": state.nan, "feature_roundoff": state.feature_roundoff}
    return {
        "configuration": json.dumps(state._configuration() | kept),
        "metadata": json.dumps(dict(metadata)),
    }


def tensors_of(state: State) -> dict[str, Tensor]:
    """Return the tensors of a state and the ids that it was made with."""
    tensors = state._tensors()
    if state.classes is not None:
        tensors["classes"] = state.classes
    for name, ids in state.scatter_ids.items():
        if ids is not None:
            tensors[f"scatter_ids/{name}"] = ids
    return tensors


def load(of: type[Made], path: str, device: torch.device | str) -> Made:
    """Make the state that a file holds, or raise."""
    found = read(path, FORMAT)
    return found.make(of, device, found.expected)


@dataclass(frozen=True)
class Found:
    """Hold what a file says."""

    path: str  # of the file
    header: Mapping[str, str]  # its strings
    settings: Mapping[str, Any]  # of the state, every one checked
    tensors: Mapping[str, Tensor]  # not checked yet, but for the ids among them
    # dtype and shape of everything that a state of these settings holds
    expected: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
    metadata: dict[str, str]  # the strings that were kept with it

    def make(
        self,
        of: type[Made],
        device: torch.device | str,
        expected: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
        *,
        stored: bool = False,
    ) -> Made:
        """Make the state, of one that is ``stored`` all but its rows, or raise."""
        settings, tensors = self.settings, self.tensors
        state = of.__new__(of)
        try:
            _check_values(tensors, expected)
            state._prepare(
                settings["num_classes"],
                settings["dim"],
                tensors.get("classes"),
                scatter={name: tensors.get(f"scatter_ids/{name}") for name in settings["scatter"]},
                dtype=_DTYPES[settings["dtype"]],
                device=device,
                nan=settings["nan"],
                diagonal=settings["diagonal"],
                stored=stored,
            )
        except (DataError, MemoryError) as error:
            raise DataError(f"ClassStatistics.load: {self.path}: {error}") from None
        state.metadata = self.metadata
        state.feature_roundoff = float(settings["feature_roundoff"])
        for name, own in state._tensors().items():
            if name in expected:
                own.copy_(tensors[name])
        return state


def read(path: str, version: str) -> Found:
    """Return what a file of a version says, or raise."""
    try:
        header, tensors = sealed_file.load_tensors(path, version)
    except DataError as error:
        raise DataError(f"ClassStatistics.load: {error}") from None
    try:
        settings = _settings(header)
        ids = {name: value for name, value in tensors.items() if _holds_ids(name)}
        _check_ids(ids, settings)
        expected = _expected(settings, ids)
        metadata = _strings(_object(header, "metadata"))
    except DataError as error:
        raise DataError(f"ClassStatistics.load: {path}: {error}") from None
    return Found(path, header, settings, tensors, expected=expected, metadata=metadata)


def _object(header: Mapping[str, str], name: str) -> dict[str, Any]:
    try:
        found = json.loads(header[name])
    except KeyError:
        raise DataError(f"not a complete state: it has no {name}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not a complete state: its {name} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"not a complete state: its {name} is {found!r}; expected an object")
    return found


def _settings(header: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration of a file, every part of it checked."""
    found = _object(header, "configuration")
    kept = found.get("classes")
    rules = {
        "num_classes": (_is_size(found.get("num_classes")), "a whole number, at least 1"),
        "dim": (_is_size(found.get("dim")), "a whole number, at least 1"),
        "classes": (kept is None or _is_size(kept), "a whole number, at least 1, or null"),
        "scatter": (_is_names(found.get("scatter")), "a list of different names"),
        "dtype": (found.get("dtype") in ("float32", "float64"), "'float32' or 'float64'"),
        "nan": (found.get("nan") in ("raise", "drop"), "'raise' or 'drop'"),
        "diagonal": (isinstance(found.get("diagonal"), bool), "true or false"),
        "feature_roundoff": (_is_share(found.get("feature_roundoff")), "a number from 0 to 1"),
    }
    for key, (right, expected) in rules.items():
        if key not in found:
            raise DataError(f"not a complete state: its configuration has no {key}")
        if not right:
            raise DataError(f"its {key} is {str(found[key])[:40]}; expected {expected}")
    return found


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LARGEST


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _is_names(value: object) -> bool:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        return False
    return len(set(value)) == len(value)


def _strings(found: dict[str, Any]) -> dict[str, str]:
    for key, value in found.items():
        if not isinstance(value, str):
            raise DataError(f"its metadata {key!r} is {type(value).__name__}; expected a string")
    return found


def _holds_ids(name: str) -> bool:
    return name == "classes" or name.startswith("scatter_ids/")


def _check_ids(ids: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
    """Raise unless class ids are in order and in range: slots are counted by them."""
    for name, value in ids.items():
        if value.dtype != torch.int64 or value.ndim != 1 or not value.numel():
            raise DataError(f"its {name} is {value.dtype} {tuple(value.shape)}; expected int64 ids")
        inside = int(value[0]) >= 0 and int(value[-1]) < settings["num_classes"]
        if not inside or not bool((value.diff() > 0).all()):
            raise DataError(
                f"its {name} is not in order; expected ids in [0, {settings['num_classes']}), each "
                "larger than the one before"
            )


def _expected(
    settings: Mapping[str, Any], ids: Mapping[str, Tensor]
) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Return dtype and shape of everything a state of this configuration holds.

    From numbers alone: a file may name more classes than any memory holds.
    """
    classes = ids.get("classes")
    held = None if classes is None else classes.numel()
    if settings["classes"] != held:
        raise DataError(
            f"its configuration names {settings['classes']} classes and its classes hold {held}"
        )
    slots = settings["num_classes"] if classes is None else classes.numel()
    width = settings["dim"]
    expected = {
        "counts": (torch.int64, (slots,)),
        "means": (_DTYPES[settings["dtype"]], (slots, width)),
        "m2": (torch.float64, (slots,)),
        "tally": (torch.int64, (3,)),
    }
    if settings["diagonal"]:
        expected["diagonal_m2"] = (torch.float64, (slots, width))
    for name in settings["scatter"]:
        expected[f"scatter/{name}"] = (torch.float64, (width, width))
    kept = {f"scatter_ids/{name}" for name in settings["scatter"]} | {"classes"}
    for name, value in ids.items():
        if name in kept:
            expected[name] = (torch.int64, tuple(value.shape))
    return expected


def _check_values(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
) -> None:
    """Raise unless every tensor is there, of its shape, and holds values that a state can hold.

    An overflow of sums of squares (Inf) is such a value: the metrics say what it makes of them.
    """
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise DataError(f"not a complete state: it has no {name}")
        if name not in expected:
            raise DataError(f"holds {name}, which no state of its configuration has")
        dtype, shape = expected[name]
        found = tensors[name]
        if found.dtype != dtype or tuple(found.shape) != shape:
            raise DataError(
                f"its {name} is {found.dtype} {tuple(found.shape)}; expected {dtype} {shape}"
            )
        if found.is_floating_point() and bool(torch.isnan(found).any()):
            raise DataError(f"its {name} holds NaN; expected numbers")
        if name in ("counts", "m2", "tally", "diagonal_m2") and bool((found < 0).any()):
            raise DataError(f"its {name} holds {found.min().item():g}; expected nothing below 0")
