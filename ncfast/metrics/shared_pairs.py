"""Sums over all pairs of rows, shared among the processes of a run.

No kernel knows of it. Rows are dealt into q^2 blocks, the points of the affine plane of a prime
order q, and a process visits all pairs of the rows of one of its q^2 + q lines. A line holds q
blocks, and any two blocks lie on one line, so that every pair of rows of two blocks is visited
once. Pairs within a block are visited on each of its q + 1 lines: they are visited once more by
themselves, and q times their sums taken off. That costs 1/q more than one process has to do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..ranks import Ranks
from .pair_functions import Functions
from .sums import Sums, total_of

__all__ = ["order_of_plane", "shared_sums"]

# Rows of a line at least: 2,048 cost 12 % more per pair than all at once, 4,096 cost 5 %, and the
# fewer lines there are, the more pairs are visited twice. 49,152 classes give q = 11: two ranks
# took 15.1 s each where one took 24.6.
LINE = 4096
PRIMES = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)


def order_of_plane(rows: int, ranks: int) -> int:
    """Return the order q of the plane that shares the pairs of so many rows; 0 for one visit.

    >>> order_of_plane(49_152, 2), order_of_plane(5_000, 2), order_of_plane(49_152, 1)
    (11, 0, 0)
    """
    orders = [q for q in PRIMES if q * LINE <= rows]
    if ranks == 1 or not orders or orders[-1] ** 2 < ranks:
        return 0
    return orders[-1]


def shared_sums(
    visit: Callable[[Tensor], list[Sums]], index: Tensor, functions: Functions, ranks: Ranks
) -> list[Sums]:
    """Return the sums over the pairs of some rows, visited together; the same on every rank.

    Args:
        visit: returns the sums over the pairs of the rows given to it.
        index: [K] int64, the rows; all ranks have the same.
        functions: what is summed.
        ranks: who share the visit. An error of one is raised on all, as ``sharing_errors`` does.
    """
    order = order_of_plane(index.numel(), ranks.size)
    if not order:
        return visit(index)
    blocks = index.tensor_split(order * order)
    mine = slice(ranks.rank, None, ranks.size)
    lines = [torch.cat([blocks[p] for p in line]) for line in lines_of_plane(order)[mine]]
    own = [
        total_of(([one.to("cpu") for one in visit(some)] for some in rows), functions)
        for rows in (lines, blocks[mine])
    ]
    found = ranks.gather_or_raise(own)
    on_lines, within = (total_of((sums[part] for sums in found), functions) for part in (0, 1))
    return [
        line.less(block, order, f).to(index.device)
        for line, block, f in zip(on_lines, within, functions, strict=True)
    ]


def lines_of_plane(order: int) -> list[list[int]]:
    """Return the points of each line of the affine plane of a prime order, numbered row by row.

    >>> lines_of_plane(2)
    [[0, 2], [1, 3], [0, 3], [1, 2], [0, 1], [2, 3]]
    """
    every = range(order)
    sloped = [[x * order + (m * x + c) % order for x in every] for m in every for c in every]
    return sloped + [[x * order + y for y in every] for x in every]
