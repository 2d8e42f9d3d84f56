"""What a sample is, and the random tensors it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...reference.checks import IGNORE_INDEX

__all__ = ["Sample", "matrix", "tiny_tokens", "wide_dtype"]


def tiny_tokens(
    n: int, width: int, classes: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return random features [n, width] away from the origin and labels, a tenth ignored.

    >>> x, y = tiny_tokens(11, 3, 5)
    >>> x.shape, bool((y == -100).any())
    (torch.Size([11, 3]), True)
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=generator, dtype=torch.float64) + 1.5
    y = torch.randint(0, classes, (n,), generator=generator)
    y[::10] = IGNORE_INDEX
    return x.to(dtype), y


@dataclass(frozen=True)
class Sample:
    """Hold the arguments of one call of a public function, and what is special about them."""

    name: str
    args: tuple[Any, ...]

    def __repr__(self) -> str:
        return self.name


def matrix(
    rows: int, width: int, dtype: torch.dtype, layout: str = "contiguous", seed: int = 0
) -> Tensor:
    """Return a random matrix whose memory is laid out in one of the ways users' tensors are."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) + 0.75).to(dtype)

    if layout == "transposed":
        return draw(width, rows).T
    if layout == "expanded-rows":
        # Eighths: equal rows then have exactly their own mean, and no spread, in every dtype.
        return (draw(width).mul(8).round() / 8).expand(rows, width)
    if layout == "expanded-columns":
        return draw(rows, 1).expand(rows, width)
    if layout == "sliced":
        return draw(2 * rows + 3, width + 9)[3 : 2 * rows + 3 : 2, 5 : 5 + width]
    return draw(rows, width)


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of class means and biases beside features of a dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32
