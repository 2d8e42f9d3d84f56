"""The terms of a call, and their values at a tile of pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import native

__all__ = ["on_device", "term_codes", "term_values"]


def on_device(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers of the host as a tensor, with nothing to wait for, unlike a copy."""
    out = native.allocate((len(values),), dtype, device)
    for p, value in enumerate(values):
        out[p].fill_(value)
    return out


def term_codes(kinds: Sequence[int], powers: Sequence[int], device: torch.device) -> Tensor:
    """Return [P] int32: each term's kind, or 4 for cdnv's power 2."""
    codes = [4 if power == 2 else kind for kind, power in zip(kinds, powers, strict=True)]
    return on_device(codes, torch.int32, device)


@triton.jit
def term_values(code, exists, directed, cosine, raw_square, unit_square, half):
    """Return a term's values, which pairs have one, which are not coincident, and what it divides.

    A cosine always has a value: 0 where a vector has no direction. A runtime code, and no loop
    that is unrolled: five terms in one kernel took half a minute to compile.
    """
    value = cosine
    has = exists
    defined = exists & directed
    safe = cosine
    if code == 1:
        defined = defined & (unit_square > 0)
        has = defined
        safe = tl.where(has, unit_square, 1.0)
        value = -0.5 * tl.log(safe)
    elif code != 2:
        defined = exists & (raw_square > 0)
        has = defined
        safe = tl.where(has, raw_square, 1.0)
        if code == 3:
            value = -0.5 * tl.log(safe)
        else:
            value = half / safe
            if code == 4:
                value = value / safe
    return value, has, defined, safe
