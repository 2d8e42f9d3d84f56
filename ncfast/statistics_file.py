"""The file a state of statistics is kept in: safetensors, written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from . import durable_file
from .errors import DataError

__all__ = ["read_state", "write_state"]


def write_state(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
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


def read_state(path: str, wanted: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return header and tensors of a file of the format wanted, or raise."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            if header.get("format") != wanted:
                raise DataError(
                    f"ClassStatistics.load: {path} has format {header.get('format')!r}; "
                    f"expected {wanted!r}"
                )
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DataError(
            f"ClassStatistics.load: {path} is damaged or no safetensors file: {error}"
        ) from None
