"""Tensors whose memory is a file: mapping one, and telling the system which rows will be read.

A page that is met for the first time is fetched alone or with what lies around it, whichever the
system guesses. Named in advance, rows come in the order of the disk, many requests at a time.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["Reading", "map_file", "read_ahead", "reading_of", "release"]

GAP_BYTES = 128 << 10  # rows this near are asked for with what lies between: one request
PROBE_BYTES = 16 << 20  # read to learn how fast the file is


@dataclass(frozen=True)
class Reading:
    """Say what reading rows will cost."""

    bytes: int  # of the tensor that are not in memory yet
    rate: float  # bytes per second, measured on the first of them; infinite where none are missing

    @property
    def seconds(self) -> float:
        """The least it takes to read each byte once."""
        return self.bytes / self.rate

    def __str__(self) -> str:
        if not self.bytes:
            return "0.00 GB of a mapped file are not in memory"
        return (
            f"{self.bytes / 1e9:.2f} GB of a mapped file are not in memory, about "
            f"{self.seconds:.1f} s at {self.rate / 1e6:.0f} MB/s"
        )


def map_file(path: str | os.PathLike[str], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a tensor whose memory is a file of as many bytes: what is written to it is in there.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "rows"
    >>> _ = path.write_bytes(bytes(8))
    >>> map_file(path, (1, 2), torch.float32)[0, 1] = 3.0
    >>> path.read_bytes().hex()
    '0000000000004040'
    """
    count = 1
    for size in shape:
        count *= size
    with open(path, "r+b") as file:
        found = os.fstat(file.fileno()).st_size
        if found != count * dtype.itemsize:
            raise ValueError(f"{path} holds {found} bytes; expected {count * dtype.itemsize}")
        memory = mmap.mmap(file.fileno(), 0)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def read_ahead(tensor: Tensor, rows: Tensor) -> None:
    """Ask for rows [n] int64, rising, that will be read soon; none of a tensor that is in memory.

    >>> read_ahead(torch.ones(3, 2), torch.tensor([0, 2]))
    """
    if not rows.numel() or not _is_plain(tensor):
        return
    size = _row_bytes(tensor)
    near = max(1, GAP_BYTES // size)
    ends = (rows.diff() > near).nonzero()[:, 0] + 1
    first = [0, *ends.tolist()]
    last = [*ends.tolist(), rows.numel()]
    for begin, end in zip(rows[first].tolist(), rows[[e - 1 for e in last]].tolist(), strict=True):
        _advise(tensor.data_ptr() + begin * size, (end + 1 - begin) * size, "WILLNEED")


def reading_of(tensor: Tensor) -> Reading:
    """Estimate what reading all of a file's tensor costs, by reading a little of what is missing.

    >>> reading_of(torch.ones(3, 2)).bytes
    0
    """
    missing = _missing_pages(tensor)
    if missing is None or not bool(missing.any()):
        return Reading(0, float("inf"))
    page, size = mmap.PAGESIZE, _row_bytes(tensor)
    probed = int(missing.nonzero()[0])
    part = missing[probed : probed + PROBE_BYTES // page]
    begin = max(0, probed * page - tensor.data_ptr() % page) // size
    stop = min(tensor.shape[0], begin + max(1, part.numel() * page // size))
    before = time.perf_counter()
    _advise(tensor.data_ptr() + begin * size, (stop - begin) * size, "WILLNEED")
    tensor[begin:stop].view(-1)[:: max(1, page // tensor.itemsize)].sum().item()
    taken = max(time.perf_counter() - before, 1e-9)
    return Reading(int(missing.sum()) * page, int(part.sum()) * page / taken)


def release(tensor: Tensor) -> None:
    """Give back the memory of a tensor of :func:`map_file`, all of it; its values stay in the file.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "rows"
    >>> _ = path.write_bytes(bytes(8))
    >>> tensor = map_file(path, (1, 2), torch.float32).fill_(2.0)
    >>> release(tensor)
    >>> tensor.tolist()
    [[2.0, 2.0]]
    """
    _advise(tensor.data_ptr(), tensor.numel() * tensor.itemsize, "DONTNEED")


def _is_plain(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.ndim == 2 and tensor.is_contiguous()


def _row_bytes(tensor: Tensor) -> int:
    return max(1, tensor.shape[1] * tensor.itemsize)


@functools.cache
def _library() -> Any:
    """Return the C library where it has what Linux has; elsewhere advice is not given."""
    return ctypes.CDLL(None) if sys.platform == "linux" else None


def _is_of_file(address: int) -> bool:
    """Return whether memory is a file's: of other memory, pages that nobody wrote are none yet."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        where, _, _, _, inode, *_ = line.split(maxsplit=5)
        begin, end = (int(part, 16) for part in where.split("-"))
        if begin <= address < end:
            return inode != "0"
    return False


def _advise(begin: int, count: int, what: str) -> None:
    """Advise on whole pages; a system that does not follow has said nothing wrong."""
    library = _library()
    if library is None or not count:
        return
    first = begin // mmap.PAGESIZE * mmap.PAGESIZE
    size = ctypes.c_size_t(begin + count - first)
    library.madvise(ctypes.c_void_p(first), size, ctypes.c_int(getattr(mmap, f"MADV_{what}")))


def _missing_pages(tensor: Tensor) -> Tensor | None:
    """Return which pages of a tensor are not in memory, None where the system cannot tell."""
    library = _library()
    if library is None or not _is_plain(tensor) or not tensor.numel():
        return None
    if not _is_of_file(tensor.data_ptr()):
        return None
    page = mmap.PAGESIZE
    first = tensor.data_ptr() // page * page
    size = tensor.data_ptr() + tensor.numel() * tensor.itemsize - first
    found = torch.zeros((size + page - 1) // page, dtype=torch.uint8)
    asked = ctypes.c_void_p(first), ctypes.c_size_t(size), ctypes.c_void_p(found.data_ptr())
    return (found & 1) == 0 if library.mincore(*asked) == 0 else None
