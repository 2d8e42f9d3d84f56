"""Files that know whether they are whole: tensors and JSON with a version and a checksum.

A file that was cut off, or of which one bit has turned, is rejected by name; it is never read as
other numbers. The checksum is of what a file says (every tensor's name, dtype, shape and bytes, all
metadata), not of how it is laid out, so that a file copied by another safetensors library is
the same file.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import durable_file
from .errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["dump_json", "load_tensors", "parse_json", "read_json", "save_tensors"]

FORMAT, CHECKSUM = "format", "checksum"


def save_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    version: str,
) -> str:
    """Write a safetensors file that is whole or not there at all; return its checksum.

    ``version`` is name and number of the format, as ``"ncfast-checkpoint/2"``; it and the checksum
    are kept beside ``metadata``. Where the disk is full or the folder cannot be written, what was
    there is untouched.

    >>> import tempfile, torch
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> _ = save_tensors(path, {"w": torch.eye(2)}, {"step": "3"}, "example/1")
    >>> metadata, tensors = load_tensors(path, "example/1")
    >>> metadata["step"], tensors["w"].trace().item()
    ('3', 2.0)
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    if taken := {FORMAT, CHECKSUM} & set(metadata):
        raise ValueError(f"save_tensors: metadata holds {sorted(taken)}; expected other names")
    stored = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    header = {**metadata, FORMAT: version}
    header[CHECKSUM] = checksum = _checksum(stored, header)
    _remove_abandoned(path)
    # A folder, because safetensors writes through a .tmp file of its own, which a kill would leave.
    partial = _partial(path)
    try:
        partial.mkdir()
        save_file(stored, partial / path.name, header)
        durable_file.replace(partial / path.name, path)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return checksum


def load_tensors(
    path: str | os.PathLike[str], version: str
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read a file of :func:`save_tensors`, all of it, and hold it to its checksum.

    What is damaged or no file of this version is a DataError that begins with the path. The
    metadata have ``format`` and ``checksum``, too.
    """
    from safetensors import SafetensorError, safe_open

    _require_file(path)
    try:
        with safe_open(os.fspath(path), "pt") as file:
            header = file.metadata() or {}
            found = header.get(FORMAT)
            if found != version:
                raise DataError(f"{path} has format {found!r}; expected {version!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DataError(f"{path} is damaged or no safetensors file: {error}") from None
    _require_checksum(path, header.get(CHECKSUM), _checksum(tensors, header))
    return header, tensors


def dump_json(document: Mapping[str, Any], indent: int | None = None) -> str:
    """Return a document with a ``"schema"`` as JSON text, with the checksum of its content.

    >>> text = dump_json({"schema": "example/1", "step": 3})
    >>> parse_json(text, "state.json", "example/1")["step"]
    3
    """
    if not isinstance(document.get("schema"), str):
        raise ValueError("dump_json: the document has no schema; expected a string")
    sealed = {k: v for k, v in document.items() if k != CHECKSUM}
    sealed[CHECKSUM] = _checksum_of_json(sealed)
    return json.dumps(sealed, indent=indent, allow_nan=False)


def parse_json(
    text: str | bytes, name: str | os.PathLike[str], schema: str, *, sealed: bool = True
) -> dict[str, Any]:
    """Return the document that a JSON text holds, or raise with the name of its file.

    What is no JSON, nested too deeply, no object, of another schema, or not what its checksum says
    is a DataError. A checksum that is there is always held to; ``sealed`` says that one must be.
    """
    try:
        document = json.loads(text)
    except RecursionError:
        raise DataError(f"{name} is damaged: its JSON is nested too deeply") from None
    except ValueError as error:  # also UnicodeDecodeError
        raise DataError(f"{name} is damaged or no JSON: {error}") from None
    found = document.get("schema") if isinstance(document, dict) else None
    if found != schema:
        raise DataError(f"{name} has schema {found!r}; expected {schema!r}")
    checksum = document.get(CHECKSUM)
    if sealed or checksum is not None:
        try:
            own = _checksum_of_json(document)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name} is damaged: {error}") from None
        _require_checksum(name, checksum, own)
    return document


def read_json(path: str | os.PathLike[str], schema: str, *, sealed: bool = True) -> dict[str, Any]:
    """Read a file of :func:`dump_json`; as :func:`parse_json`."""
    _require_file(path)
    return parse_json(Path(path).read_bytes(), path, schema, sealed=sealed)


def _require_file(path: str | os.PathLike[str]) -> None:
    """Raise for what is no regular file: a FIFO would wait for ever, a folder says little."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise DataError(f"{path} is no file; expected one")


def _require_checksum(name: str | os.PathLike[str], said: object, found: str) -> None:
    if said is None:
        raise DataError(f"{name} carries no checksum; it is not what ncfast wrote")
    if said != found:
        raise DataError(
            f"{name} is damaged: its content does not have the checksum that was stored with it"
        )


def _checksum(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    import torch

    digest = hashlib.sha256()
    said = {k: v for k, v in header.items() if k != CHECKSUM}
    shapes = {name: [str(value.dtype), list(value.shape)] for name, value in tensors.items()}
    digest.update(json.dumps([said, shapes], sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def _checksum_of_json(document: Mapping[str, Any]) -> str:
    content = {k: v for k, v in document.items() if k != CHECKSUM}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _prefix(path: Path) -> str:
    return f".{path.name}.partial-{socket.gethostname()}-"


def _partial(path: Path) -> Path:
    """Return a name beside a file, of this process alone: ranks may save to one path at once."""
    return path.with_name(f"{_prefix(path)}{os.getpid()}-{secrets.token_hex(4)}")


def _remove_abandoned(path: Path) -> None:
    """Remove what processes of this machine left beside a file when they were killed saving it."""
    if os.name != "posix":  # elsewhere a signal of 0 is no question but a signal
        return
    prefix = _prefix(path)
    for found in path.parent.glob(".*"):
        process = found.name.removeprefix(prefix).partition("-")[0]
        if found.name.startswith(prefix) and process.isdigit() and not _lives(int(process)):
            shutil.rmtree(found, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's process, or no number of one
        return True
    return True
