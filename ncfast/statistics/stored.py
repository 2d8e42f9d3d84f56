"""A state whose rows live in files of a folder: made, committed, and opened again."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from .. import durable_file, sealed_file
from ..errors import DataError
from .file import Made, header_of, read, tensors_of
from .state import State
from .storage import STATE, Storage, locked, sums_of_zeros

__all__ = ["FORMAT", "commit", "create", "load"]

FORMAT = "ncfast-class-statistics-folder/1"
SUMS, GENERATION = "row_sums", "generation"


def create(state: State, folder: Path) -> None:
    """Make the folder of a state that has seen nothing, where nothing is: whole, or not at all."""
    if os.path.lexists(folder):
        raise FileExistsError(
            f"ClassStatistics: storage={str(folder)!r} exists; expected a new folder, or "
            "ClassStatistics.load(folder) to go on with what it holds"
        )
    durable_file.require_folder(folder.parent)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
    dtypes, shape = state._row_types(), (state.counts.numel(), state.dim)
    sums = sums_of_zeros(dtypes, shape)
    try:
        partial.mkdir()
        Storage.make_files(partial, dtypes, shape)
        _write(state, partial, state.metadata, sums, generation=0)
        durable_file.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    state._use(Storage(folder, dtypes, shape, sums, generation=0))


def commit(state: State, metadata: Mapping[str, str]) -> None:
    """Make what a state has seen last."""
    if state._storage is None:
        raise ValueError(
            "ClassStatistics.commit: the state lives in memory; expected one made with storage, or "
            "save(path)"
        )
    folder = state._storage.folder
    state._storage.commit(
        lambda sums, generation: _write(state, folder, metadata, sums, generation=generation)
    )


def load(of: type[Made], folder: Path, device: torch.device | str) -> Made:
    """Open the folder of a state where its last commit was, or raise."""
    if torch.device(device).type != "cpu":
        raise ValueError(
            f"ClassStatistics.load: {folder} is a folder, whose state lives in its files, and "
            f"device is {device}; expected cpu"
        )
    if not (folder / STATE).exists():
        raise DataError(
            f"ClassStatistics.load: {folder} is no file, and a folder without {STATE}; expected a "
            "file of save, or the folder of a state made with storage"
        )
    try:
        lock = locked(folder)  # first: another state may commit until then
    except DataError as error:
        raise DataError(f"ClassStatistics.load: {error}") from None
    try:
        return _opened(of, folder, device, lock)
    except BaseException:
        lock.close()  # an error's traceback would hold it
        raise


def _opened(of: type[Made], folder: Path, device: torch.device | str, lock: BinaryIO) -> Made:
    found = read(str(folder / STATE), FORMAT)
    shape = found.expected["means"][1]
    expected = dict(found.expected)
    rows: dict[str, torch.dtype]
    rows = {name: expected.pop(name)[0] for name in ("means", "diagonal_m2") if name in expected}
    expected[SUMS] = (torch.int64, shape[:1])
    generation = found.header.get(GENERATION, "")
    if not generation.isdecimal():
        raise DataError(f"ClassStatistics.load: {found.path}: its generation is {generation!r}")
    state = found.make(of, device, expected, stored=True)
    try:
        storage = Storage(
            folder,
            rows,
            (shape[0], shape[1]),
            found.tensors[SUMS],
            generation=int(generation),
            lock=lock,
        )
    except DataError as error:
        raise DataError(f"ClassStatistics.load: {error}") from None
    state._use(storage)
    return state


def _write(
    state: State, folder: Path, metadata: Mapping[str, str], sums: Tensor, *, generation: int
) -> None:
    """Write all of a state that is not a row."""
    tensors = {n: t for n, t in tensors_of(state).items() if n not in state._row_types()}
    header = {**header_of(state, metadata, "commit"), GENERATION: str(generation)}
    sealed_file.save_tensors(folder / STATE, tensors | {SUMS: sums}, header, FORMAT)
