"""Labels: checked once, sorted once, and cut into pieces that programs own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import device_errors, native
from .launching import Configuration, launch
from .tiles import NOWHERE, complain

__all__ = ["PIECE", "Pieces", "check_index", "class_keys", "pieces_of"]

IGNORE_INDEX = tl.constexpr(-100)
PIECE = 256  # tokens of one class that one program reads: half of a long class's run to fill a GPU

CHECK = (Configuration("1024 labels", 4, 1, {"ROWS": 1024}),)


@dataclass(frozen=True)
class Pieces:
    """Hold the tokens of every class, cut into pieces of at most ``PIECE``.

    Sizes depend on shapes alone: nothing here waits for the device. ``V`` in a list of classes
    means that the entry is not used.
    """

    order: Tensor  # [N] int64: positions of tokens, those of a class together and in order
    begins: Tensor  # [V + 1] int64: where in the order each class begins
    counts: Tensor  # [V] int64
    piece_class: Tensor  # [P] int64: the class of every piece
    piece_ends: Tensor  # [V] int64: pieces of classes up to and including this one
    partial_ends: Tensor  # [V] int64: the same, counting only classes of several pieces
    long_class: Tensor  # [M] int64: classes of several pieces
    partials: int  # how many pieces belong to such classes at most


@triton.jit(do_not_specialize=["slot"])
def _class_keys(y, stride, keys, num_classes, count, table, slot, ROWS: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < count
    label = tl.load(y + rows * stride, mask=inside, other=IGNORE_INDEX)
    valid = (label >= 0) & (label < num_classes)
    bad = inside & (label != IGNORE_INDEX) & ((label < 0) | (label >= num_classes))
    complain(table, slot, tl.min(tl.where(bad, rows, NOWHERE), axis=0))
    tl.store(keys + rows, tl.where(valid, label, num_classes).to(tl.int32), mask=inside)


def class_keys(op: str, y: Tensor, num_classes: int) -> Tensor:
    """Return [N] int32: each token's class, or ``num_classes`` where it does not count."""
    keys = native.allocate((y.shape[0],), torch.int32, y.device)
    launch(
        _class_keys,
        lambda tiles: (triton.cdiv(y.shape[0], tiles["ROWS"]),),
        CHECK,
        y,
        y.stride(0),
        keys,
        num_classes,
        y.shape[0],
        device_errors.table(y.device),
        device_errors.declare(f"{op}: y[{{}}] is out of range; expected a class or -100"),
    )
    return keys


def pieces_of(keys: Tensor, num_classes: int) -> Pieces:
    """Sort tokens by class and cut the classes into pieces."""
    tokens, device = keys.shape[0], keys.device
    ordered, order = torch.sort(keys, stable=True)
    bounds = torch.arange(num_classes + 1, dtype=torch.int32, device=device)
    begins = torch.searchsorted(ordered, bounds)
    counts = begins.diff()
    pieces = (counts + (PIECE - 1)) // PIECE
    several = pieces > 1
    piece_ends = pieces.cumsum(0)
    partial_ends = torch.where(several, pieces, 0).cumsum(0)
    # A class of several pieces has more than PIECE tokens, and under 2 pieces per PIECE of them.
    return Pieces(
        order=order,
        begins=begins,
        counts=counts,
        piece_class=members(piece_ends, tokens // PIECE + min(tokens, num_classes)),
        piece_ends=piece_ends,
        partial_ends=partial_ends,
        long_class=members(several.cumsum(0), tokens // PIECE),
        partials=2 * tokens // PIECE,
    )


def members(ends: Tensor, size: int) -> Tensor:
    """Return [size] int64: the class of the i-th member, given how many members end with each."""
    ranks = torch.arange(1, size + 1, dtype=torch.int64, device=ends.device)
    return torch.searchsorted(ends, ranks)


@triton.jit(do_not_specialize=["slot_range", "slot_double"])
def _check_index(
    ordered, order, rows_of_points, count, table, slot_range, slot_double, ROWS: tl.constexpr
):
    entries = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = entries < count
    row = tl.load(ordered + entries, mask=inside, other=0)
    before = tl.load(ordered + entries - 1, mask=inside & (entries > 0), other=-1)
    position = tl.load(order + entries, mask=inside, other=0)
    outside = inside & ((row < 0) | (row >= rows_of_points))
    double = inside & (entries > 0) & (row == before)
    complain(table, slot_range, tl.min(tl.where(outside, position, NOWHERE), axis=0))
    complain(table, slot_double, tl.min(tl.where(double, position, NOWHERE), axis=0))


def check_index(op: str, index: Tensor | None, rows: int) -> None:
    """Complain of entries that name no row, or a row for the second time."""
    if index is None:
        return
    ordered, order = torch.sort(index, stable=True)
    launch(
        _check_index,
        lambda tiles: (triton.cdiv(index.shape[0], tiles["ROWS"]),),
        CHECK,
        ordered,
        order,
        rows,
        index.shape[0],
        device_errors.table(index.device),
        device_errors.declare(f"{op}: index[{{}}] is out of range; expected a row"),
        device_errors.declare(f"{op}: index[{{}}] names a row for the second time"),
    )
