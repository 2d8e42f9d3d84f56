"""What linear_argmax and nearest_center share: whom to choose among, and the choice."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DataError
from .checks import check_finite, check_index


def visited_rows(
    op: str, x: Tensor, name: str, rows: Tensor, index: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the ids to choose among and their rows, or raise at a value that cannot be used."""
    where = check_index(op, index, rows.shape[0])
    ids = torch.arange(rows.shape[0], device=rows.device)[where]
    check_finite(op, x, torch.ones(len(x), dtype=torch.bool, device=x.device))
    visited = torch.zeros(rows.shape[0], dtype=torch.bool, device=rows.device)
    visited[ids] = True
    check_finite(op, rows, visited, name)
    if not len(ids):
        raise DataError(f"{op}: there is no class to choose from; expected at least one")
    return ids, rows[ids]


def choose(op: str, scores: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the id of the best score, the lowest of those that tie, and the lead on the second."""
    if not torch.isfinite(scores).all():
        raise DataError(f"{op}: scores overflow; expected finite ones: scale x down")
    best = scores.max()
    chosen = ids[scores == best].min()
    second = scores.masked_fill(ids == chosen, -torch.inf).max()
    return chosen, best - second


def stack(
    choices: list[tuple[Tensor, Tensor]], x: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the choices of all tokens as two tensors [N]."""
    if not choices:
        return x.new_zeros(0, dtype=torch.int64), x.new_zeros(0, dtype=dtype)
    classes, margins = zip(*choices, strict=True)
    return torch.stack(classes), torch.stack(margins)
