"""What every op rejects in its data, in the words the C++ kernels use."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DataError

IGNORE_INDEX = -100


def check_labels(op: str, y: Tensor, num_classes: int) -> Tensor:
    """Return the mask of tokens that count, or raise at the first label that is no class."""
    kept = y != IGNORE_INDEX
    bad = kept & ((y < 0) | (y >= num_classes))
    if bad.any():
        i = int(bad.nonzero()[0])
        raise DataError(
            f"{op}: y[{i}] is {int(y[i])}; expected a class in [0, {num_classes}) or "
            f"{IGNORE_INDEX} for a token to ignore"
        )
    return kept


def check_finite(op: str, x: Tensor, kept: Tensor, argument: str = "x") -> None:
    """Raise at the first NaN or Inf of a row that counts."""
    bad = ~torch.isfinite(x) & kept[:, None]
    if bad.any():
        i, d = (int(v) for v in bad.nonzero()[0])
        value = float(x[i, d])
        name = "nan" if value != value else ("inf" if value > 0 else "-inf")
        raise DataError(f"{op}: {argument}[{i}, {d}] is {name}; expected finite values")


def check_index(op: str, index: Tensor | None, rows: int) -> Tensor | slice:
    """Return what to index rows with, or raise at an entry out of range or given twice."""
    if index is None:
        return slice(None)
    seen: set[int] = set()
    for k, row in enumerate(index.tolist()):
        if not 0 <= row < rows:
            raise DataError(f"{op}: index[{k}] is {row}; expected a row in [0, {rows})")
        if row in seen:
            raise DataError(
                f"{op}: index[{k}] is {row} for the second time; expected distinct rows"
            )
        seen.add(row)
    return index
