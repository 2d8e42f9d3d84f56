"""Rows of a state in mapped files, and the journal that takes them back to the last commit.

Rows change in place. Before a row changes for the first time since a commit, what it was goes to
the journal and to the disk; a commit puts the rows on the disk, then replaces the small file that
holds the rest of the state and a checksum of every row, and only then empties the journal. So
whatever moment a process or the machine stops at, the rows can be taken back to what the small file
says, and every row is held to its checksum when they are opened.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from .. import durable_file, mapped
from ..errors import DataError

__all__ = ["STATE", "Storage", "locked", "sums_of_zeros"]

STATE = "state.safetensors"
_JOURNAL, _LOCK = "journal", "lock"
_HEADER = struct.Struct("<8sQI")  # magic, generation, and a checksum of both
# Rows whose bytes follow, rows that were zero, and a checksum of what follows: the numbers of both,
# then the bytes. A first pass over the classes writes no bytes.
_RECORD = struct.Struct("<QQI")
_MAGIC = b"ncfast1\n"
_PART_BYTES = 32 << 20  # of rows at a time, on their way to the journal or to a checksum
_HELD_BYTES = 1 << 30  # of rows met before the memory of all is given back to the system
_MET_BYTES = 64 << 10  # what the system maps around a row that is read


class Storage:
    """Hold the rows of a state, [K, D] each, in files of a folder.

    Args:
        folder: it exists.
        dtypes: of each file of rows, by name.
        shape: K and D.
        sums: [K] int64, the checksum that every row had at the last commit.
        generation: commits so far.

    Attributes:
        rows: name -> [K, D], whose memory is the file.

    Raises:
        ncfast.DataError: Another process has it open; a file is cut off; a row is damaged.
    """

    def __init__(
        self,
        folder: Path,
        dtypes: Mapping[str, torch.dtype],
        shape: tuple[int, int],
        sums: Tensor,
        generation: int,
        lock: BinaryIO | None = None,
    ) -> None:
        self.folder, self.generation, self.sums = folder, generation, sums
        self._kept = torch.zeros(shape[0], dtype=torch.bool)
        self._journal: BinaryIO | None = None
        self._met, self._unsure, self._process = 0, False, os.getpid()
        self._lock = lock or locked(folder)
        try:
            self.rows = {n: mapped.map_file(folder / n, shape, t) for n, t in dtypes.items()}
            self._roll_back()
        except (OSError, ValueError) as error:
            raise DataError(f"{folder} is damaged: {error}") from None
        self._check()

    @classmethod
    def make_files(
        cls, folder: Path, dtypes: Mapping[str, torch.dtype], shape: tuple[int, int]
    ) -> None:
        """Make the files of rows, all of them zero, on room that the disk has set aside."""
        if sys.platform != "linux":
            raise ValueError(
                f"ClassStatistics: storage is given on {sys.platform}; expected Linux, where what "
                "is written to mapped files is on the disk after fsync"
            )
        for name, dtype in dtypes.items():
            with open(folder / name, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, shape[0] * shape[1] * dtype.itemsize)
                os.fsync(file.fileno())
        for name in (_JOURNAL, _LOCK):
            (folder / name).touch()

    def keep(self, rows: Tensor) -> None:
        """Put rows [n] that are about to change, in any order, where they can be taken back from.

        Where the disk is full, an OSError, nothing has changed.
        """
        self._require_whole()
        new = torch.unique(rows)
        self._meet(new.numel())
        new = new[~self._kept[new]]
        if not new.numel():
            return
        begun = self._journal is not None
        journal = self._journal or open(self.folder / _JOURNAL, "wb", buffering=0)  # noqa: SIM115
        end = journal.tell()
        try:
            if not begun:
                head = _HEADER.pack(_MAGIC, self.generation, 0)[:-4]
                _write(journal, head + struct.pack("<I", zlib.crc32(head)))
            for some in self._parts(new):
                _write(journal, self._record(some))
            durable_file.sync(self.folder / _JOURNAL)
        except BaseException:  # an interrupt too: records behind half a record are not read
            journal.seek(end)
            journal.truncate()
            if not begun:
                journal.close()
            raise
        self._journal = journal
        self._kept[new] = True

    def keep_all(self) -> None:
        """Keep every row, some at a time."""
        for some in self._parts(torch.arange(self._kept.numel())):
            self.keep(some)

    def commit(self, write: Callable[[Tensor, int], object]) -> None:
        """Make what the rows are now what a later opening finds.

        ``write`` puts the rest of the state, the sums and the generation given to it into the small
        file, atomically. Where the disk is full or fails, an OSError, the last commit holds.
        """
        self._require_own_process()
        sums = self.sums.clone()
        for some in self._parts(self._kept.nonzero()[:, 0]):
            sums[some] = self._sums_of(some)
            self._meet(some.numel())
        for name in self.rows:
            durable_file.sync(self.folder / name)
        before = (self.folder / STATE).stat().st_ino
        try:
            write(sums, self.generation + 1)
        finally:  # the new file may have its name though what came after failed
            self._unsure = (self.folder / STATE).stat().st_ino != before
        self.sums, self.generation = sums, self.generation + 1
        self._kept.zero_()
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        (self.folder / _JOURNAL).write_bytes(b"")
        self._unsure = False

    def _require_own_process(self) -> None:
        if os.getpid() != self._process:
            raise ValueError(
                f"{self.folder} was opened by process {self._process}; expected that one to change "
                "it: what a fork writes to its files would be in both"
            )

    def _require_whole(self) -> None:
        self._require_own_process()
        if self._unsure:
            raise DataError(
                f"{self.folder}: a commit failed after its file had its name; expected another "
                "commit, or the folder to be opened again, before rows change"
            )

    def release(self) -> None:
        """Give the memory of the rows back to the system; their values stay in the files."""
        for tensor in self.rows.values():
            mapped.release(tensor)
        self._met = 0

    def _meet(self, rows: int) -> None:
        """Count rows that enter the memory of this process, and give all back where many have."""
        size = max(_MET_BYTES, self._row_bytes())
        if self._met + rows * size > _HELD_BYTES:
            self.release()
        self._met += rows * size

    def _row_bytes(self) -> int:
        return sum(tensor.shape[1] * tensor.itemsize for tensor in self.rows.values())

    def _parts(self, rows: Tensor) -> Iterator[Tensor]:
        yield from rows.split(max(1, _PART_BYTES // max(1, self._row_bytes())))

    def _record(self, rows: Tensor) -> bytes:
        """Return what the journal says of rows, one file after the other."""
        found = [tensor[rows] for tensor in self.rows.values()]
        filled = torch.stack([part.view(torch.int32).any(1) for part in found]).any(0)
        ids = torch.cat([rows[filled], rows[~filled]]).numpy().tobytes()
        content = b"".join([ids, *(part[filled].numpy().tobytes() for part in found)])
        count = int(filled.sum())
        return _RECORD.pack(count, rows.numel() - count, zlib.crc32(content)) + content

    def _sums_of(self, rows: Tensor) -> Tensor:
        """Return the checksum of each row, over all files."""
        found = [0] * rows.numel()
        for tensor in self.rows.values():
            for i, row in enumerate(tensor[rows].numpy()):
                found[i] = zlib.crc32(row, found[i])
        return torch.tensor(found, dtype=torch.int64)

    def _roll_back(self) -> None:
        """Put back what rows were before they changed since the last commit.

        A record that is cut off was being written when the process ended: its rows had not changed
        yet. One that is damaged ends the reading too, and its rows fail their checksums.
        """
        with open(self.folder / _JOURNAL, "rb") as journal:
            head = journal.read(_HEADER.size)
            right = len(head) == _HEADER.size and zlib.crc32(head[:-4]) == _HEADER.unpack(head)[2]
            if not right or _HEADER.unpack(head)[:2] != (_MAGIC, self.generation):
                return
            while len(head := journal.read(_RECORD.size)) == _RECORD.size:
                count, zeros, checksum = _RECORD.unpack(head)
                if count + zeros > self._kept.numel():
                    break
                content = journal.read(count * self._row_bytes() + 8 * (count + zeros))
                if zlib.crc32(content) != checksum:
                    break
                self._put_back(count, zeros, bytearray(content))
        for name in self.rows:
            durable_file.sync(self.folder / name)

    def _put_back(self, count: int, zeros: int, content: bytearray) -> None:
        place = 8 * (count + zeros)
        rows = torch.tensor(memoryview(content[:place]).cast("q"), dtype=torch.int64)
        for tensor in self.rows.values():
            size = count * tensor.shape[1] * tensor.itemsize
            tensor[rows[count:]] = 0
            if count:
                part = torch.frombuffer(content[place : place + size], dtype=tensor.dtype)
                tensor[rows[:count]] = part.view(count, -1)
            place += size
        self._meet(count + zeros)

    def _check(self) -> None:
        for some in self._parts(torch.arange(self._kept.numel())):
            wrong = (self._sums_of(some) != self.sums[some]).nonzero()[:, 0]
            if wrong.numel():
                raise DataError(
                    f"{self.folder} is damaged: its row {int(some[wrong[0]])} does not have the "
                    "checksum that was stored with it"
                )
            self._meet(some.numel())
        self.release()


def sums_of_zeros(dtypes: Mapping[str, torch.dtype], shape: tuple[int, int]) -> Tensor:
    """Return the checksums [K] of rows of zeros."""
    size = shape[1] * sum(dtype.itemsize for dtype in dtypes.values())
    return torch.full((shape[0],), zlib.crc32(bytes(size)), dtype=torch.int64)


def _write(file: BinaryIO, content: bytes) -> None:
    """Write all of it: a file without a buffer may take less at a time."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def locked(folder: Path) -> BinaryIO:
    """Return a file that is open, and locked, for as long as the storage is."""
    import fcntl

    try:
        file = open(folder / _LOCK, "r+b")  # noqa: SIM115
    except OSError as error:
        raise DataError(f"{folder} is damaged: {error}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise DataError(
            f"{folder} is open in another state or process; expected one at a time"
        ) from None
    return file
