"""Changes of a few rows of a model's tensors, put back bit for bit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

LARGE = 2**16  # elements above which only some rows of a tensor are changed
ROWS = 64


def spread_rows(rows: int, most: int) -> torch.Tensor:
    """Return up to ``most`` row numbers, evenly from the first to the last of ``rows``, int64.

    In whole numbers: a float of 16 bits, the default where a user has set it, rounds past the end.

    >>> spread_rows(600, 4).tolist(), spread_rows(2, 4).tolist()
    ([0, 199, 399, 599], [0, 1])
    """
    count = min(most, rows)
    return torch.arange(count, dtype=torch.int64) * (rows - 1) // max(1, count - 1)


class Changes:
    """Change tensors in place within a ``with`` block, and put all back at its end.

    A tied tensor may be changed twice: what was changed last is put back first.

    >>> weight = torch.ones(2, 2)
    >>> with Changes() as changes:
    ...     changes.add(weight, 0.1)
    ...     bool((weight == 1).any())
    False
    >>> bool((weight == 1).all())
    True
    """

    def __init__(self) -> None:
        self._undo: list[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]] = []
        self._generator = torch.Generator().manual_seed(0)

    def __enter__(self) -> Changes:
        """Begin."""
        return self

    def __exit__(self, *error: object) -> None:
        """Put everything back."""
        while self._undo:
            self.undo()

    def add(self, tensor: torch.Tensor, size: float) -> None:
        """Add noise of standard deviation ``size`` to a tensor, or to some rows of a large one."""
        # .data: what autograd has saved of a tensor is the same again when we are done.
        data, rows = tensor.data, None
        if data.numel() > LARGE and data.dim() > 1:
            rows = spread_rows(len(data), ROWS).to(data.device)
        old = data.clone() if rows is None else data[rows].clone()
        noise = torch.randn(old.shape, generator=self._generator, dtype=torch.float32) * size
        new = old + noise.to(old)
        self._undo.append((data, rows, old))
        _write(data, rows, new)

    def undo(self) -> None:
        """Put back what was changed last."""
        _write(*self._undo.pop())


def _write(data: torch.Tensor, rows: torch.Tensor | None, values: torch.Tensor) -> None:
    if rows is None:
        data.copy_(values)
    else:
        data[rows] = values


@contextlib.contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Put back what forward passes wrote into a model's buffers.

    Only buffers that were written to are told by their version; small ones are kept beforehand,
    large ones (packed weights, masks) are never written by a pass.
    """
    kept = [(b, b._version, b.clone()) for b in model.buffers() if b.numel() <= LARGE]
    try:
        yield
    finally:
        for buffer, version, old in kept:
            if buffer._version != version:
                buffer.data.copy_(old)
