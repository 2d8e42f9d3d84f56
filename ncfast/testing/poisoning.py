"""Memory that shows what a kernel leaves unwritten, or writes beyond its output."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .. import native

__all__ = ["poison"]

_GUARD = 64  # values before and after every poisoned output
_INTEGER_POISON = -0x5EAD


@contextmanager
def poison() -> Iterator[list[Tensor]]:
    """Fill outputs with NaN (integers: a sentinel) before kernels write them, between guards.

    An output that a kernel leaves unwritten shows; a write before or after its memory raises when
    the block ends. Yields the outputs allocated so far.

    Raises:
        AssertionError: A guard was overwritten.

    >>> import ncfast.functional as F
    >>> with poison() as outputs:
    ...     _ = F.class_moments(torch.eye(2), torch.tensor([0, 1]), 2)
    >>> [bool(output.isnan().any()) for output in outputs]
    [False, False, False]
    """
    outputs: list[Tensor] = []
    guards: list[Tensor] = []
    original = native.allocate

    def allocate(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        size = math.prod(shape)
        memory = original((size + 2 * _GUARD,), dtype, device)
        memory.fill_(math.nan if dtype.is_floating_point else _INTEGER_POISON)
        guards.extend((memory[:_GUARD], memory[_GUARD + size :]))
        outputs.append(memory[_GUARD : _GUARD + size].view(shape))
        return outputs[-1]

    native.allocate = allocate
    try:
        yield outputs
    finally:
        native.allocate = original
    for guard in guards:
        intact = guard.isnan() if guard.is_floating_point() else guard == _INTEGER_POISON
        if not intact.all():
            raise AssertionError("a kernel wrote outside its output")
