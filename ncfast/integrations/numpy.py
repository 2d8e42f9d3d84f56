"""Class statistics of features kept in NumPy files, of any size, in the memory of one part."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray

from ..errors import DataError
from ..statistics import ClassStatistics

__all__ = ["statistics_of_files"]

PART_BYTES = 32 << 20  # of features at a time; larger parts gain nothing, the op streams anyway
_FLOATS = ("float16", "float32", "float64")
# All that int64 holds. A uint64 label could wrap to -100 and be ignored without a word.
_INTEGERS = ("int64", "int32", "int16", "int8", "uint32", "uint16", "uint8")


def statistics_of_files(
    features: str | os.PathLike[str],
    labels: str | os.PathLike[str],
    num_classes: int,
    *,
    part_bytes: int = PART_BYTES,
    **settings: Any,
) -> ClassStatistics:
    """Stream a file of features and a file of labels into the statistics of their classes.

    The files are mapped and read once, from first to last, a part at a time: no part is copied,
    and memory stays at one part beside the statistics, however large the files.

    Args:
        features: ``.npy`` file of [N, D] float16, float32 or float64, in C order and the machine's
            byte order.
        labels: ``.npy`` file of [N] classes in ``[0, num_classes)``, of any integer dtype but
            uint64; -100 ignores the token.
        num_classes: V.
        part_bytes: how many bytes of features to hold at a time, at least one row.
        settings: keyword arguments of :class:`ncfast.ClassStatistics`. ``dtype`` is float64 for
            float64 features, unless given, and float32 for others.

    Returns:
        The statistics. Those of several files are added with ``merge``.

    Raises:
        OSError: A file cannot be opened.
        TypeError, ValueError: A dtype, shape or layout is wrong; the message names the file.
        ncfast.DataError: No ``.npy`` file, a label out of range, or a NaN or Inf in a feature that
            counts; the message names the rows. Nothing is returned.
        ImportError: The C++ part of ncfast was not built.

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> numpy.save(folder / "x.npy", numpy.array([[1.0], [3.0], [5.0]], dtype="float32"))
    >>> numpy.save(folder / "y.npy", numpy.array([2, 2, -100]))
    >>> stats = statistics_of_files(folder / "x.npy", folder / "y.npy", num_classes=3)
    >>> stats.tokens, stats.ignored, stats.means[2].item()
    (2, 1, 2.0)
    """
    x, y = _mapped("features", features, 2, _FLOATS), _mapped("labels", labels, 1, _INTEGERS)
    rows, width = x.shape
    if y.shape[0] != rows:
        raise ValueError(
            f"statistics_of_files: labels {labels} are [{y.shape[0]}] and features {features} are "
            f"[{rows}, {width}]; expected a label for each row"
        )
    if part_bytes < 1:
        raise ValueError(f"statistics_of_files: part_bytes is {part_bytes}; expected at least 1")
    if x.dtype == numpy.float64:
        settings = {"dtype": torch.float64, **settings}
    stats = ClassStatistics(num_classes, width, **settings)

    def consume(first: int, part: NDArray[Any], classes: NDArray[Any]) -> None:
        try:
            stats.update(
                torch.from_numpy(part), torch.from_numpy(classes.astype("int64", copy=False))
            )
        except DataError as error:
            last = first + len(part)
            raise DataError(
                f"statistics_of_files: in rows [{first}, {last}) of {features} and {labels}, "
                f"counted from {first}: {error}"
            ) from None

    _streaming().stream(
        *(os.fspath(features), x.dtype, x.offset, rows, width),
        *(os.fspath(labels), y.dtype, y.offset),
        max(1, part_bytes // (width * x.dtype.itemsize)),
        consume,
    )
    return stats


def _streaming() -> Any:
    try:
        return importlib.import_module("ncfast._native.streaming")
    except ImportError as error:
        note = Path(__file__).parents[1] / "_native" / "build_streaming.txt"
        why = note.read_text(encoding="utf-8").strip() if note.exists() else "it was never built"
        raise ImportError(
            f"ncfast.integrations.numpy needs ncfast's C++ part for files, which is not here "
            f"({why}): {error}"
        ) from None


def _mapped(
    name: str, path: str | os.PathLike[str], dimensions: int, dtypes: tuple[str, ...]
) -> Any:
    """Return the file mapped, unread, for its shape, dtype and offset; or reject it."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f"statistics_of_files: {name} is a {type(path).__name__}; expected the path of a .npy "
            "file (ncfast.ClassStatistics.update takes tensors)"
        )
    said = f"statistics_of_files: {name} {os.fspath(path)}"
    with open(path, "rb") as file:
        start = file.read(6)
    if start != b"\x93NUMPY" and start[:2] != b"PK":  # else numpy.load advises to unpickle it
        raise DataError(
            f"{said}: is no .npy file; numpy.save writes one, of what numpy.loadtxt reads from "
            "text or CSV, say"
        )
    try:
        array = numpy.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise DataError(f"{said}: no .npy file of numbers: {error}") from None
    if not isinstance(array, numpy.memmap):
        array.close()
        raise DataError(f"{said}: an archive of arrays; expected a .npy file of one")
    if array.dtype.name not in dtypes or not array.dtype.isnative:
        raise TypeError(
            f"{said}: holds {array.dtype.str} ({array.dtype.name}); "
            f"expected {' or '.join(dtypes)} in this machine's byte order"
        )
    if array.ndim != dimensions or 0 in array.shape[1:]:
        shape = "[N, D]" if dimensions == 2 else "[N]"
        raise ValueError(f"{said}: is {list(array.shape)}; expected {shape}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{said}: is in Fortran order; expected C order, rows one after another")
    return array
