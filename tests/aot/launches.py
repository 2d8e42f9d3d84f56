"""One call of every launch function, so that what it launches can be compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast.kernels import class_moments

N, D, V = 512, 1024, 640  # as real ones, multiples of 16; nothing is computed


def _tokens(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.zeros(N, D, dtype=dtype), torch.zeros(N, dtype=torch.int64)


def _class_moments(dtype: torch.dtype) -> None:
    x, y = _tokens(dtype)
    counts, means, m2 = class_moments.class_moments(x, y, V)
    class_moments.class_moments_backward(means, m2, x, y, counts, means)


LAUNCHES = (_class_moments,)
