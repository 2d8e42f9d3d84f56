"""The file a state is kept in: safetensors, written whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import durable_file
from ..errors import DataError

if TYPE_CHECKING:
    from .class_statistics import ClassStatistics

__all__ = ["FORMAT", "load", "save"]

FORMAT = "ncfast-class-statistics/1"


def save(state: ClassStatistics, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a state and strings to keep with it."""
    tensors = state._tensors()
    if state.classes is not None:
        tensors["classes"] = state.classes
    for name, ids in state.scatter_ids.items():
        if ids is not None:
            tensors[f"scatter_ids/{name}"] = ids
    header = {
        "format": FORMAT,
        "configuration": json.dumps(state._configuration() | {"nan": state.nan}),
        "metadata": json.dumps(dict(metadata)),
    }
    _write(path, tensors, header)


def load(of: type[ClassStatistics], path: str, device: torch.device | str) -> ClassStatistics:
    """Make the state that a file holds, or raise."""
    header, tensors = _read(path)
    try:
        settings = json.loads(header["configuration"])
        state = of(
            settings["num_classes"],
            settings["dim"],
            tensors.get("classes"),
            {name: tensors.get(f"scatter_ids/{name}") for name in settings["scatter"]},
            getattr(torch, settings["dtype"]),
            device,
            settings["nan"],
            settings.get("diagonal", False),  # files of before had none
        )
        state.metadata = json.loads(header["metadata"])
        for name, own in state._tensors().items():
            if own.shape != tensors[name].shape or own.dtype != tensors[name].dtype:
                raise DataError(
                    f"ClassStatistics.load: {path}: {name} is {tensors[name].dtype} "
                    f"{tuple(tensors[name].shape)}; expected {own.dtype} {tuple(own.shape)}"
                )
            own.copy_(tensors[name])
    except (KeyError, json.JSONDecodeError, TypeError, AttributeError) as error:
        raise DataError(
            f"ClassStatistics.load: {path} is not a complete state: {error!r}"
        ) from None
    return state


def _write(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    """Write tensors and a header, replacing the file only once all of it is on the disk."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, temporary, header)
        durable_file.replace(temporary, path)
    except SafetensorError as error:
        raise OSError(f"ClassStatistics.save: {path} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return header and tensors of a state's file, or raise."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise DataError(
                    f"ClassStatistics.load: {path} has format {header.get('format')!r}; "
                    f"expected {FORMAT!r}"
                )
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DataError(
            f"ClassStatistics.load: {path} is damaged or no safetensors file: {error}"
        ) from None
