"""Labels: checked once, sorted once, and cut into segments, one for each program."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import device_errors, native
from .launching import Configuration, launch
from .tiles import NOWHERE, report_error

__all__ = ["SEGMENT", "Segments", "check_index", "class_keys", "segments_of"]

IGNORE_INDEX = tl.constexpr(-100)
SEGMENT = (
    256  # tokens of one class that one program reads: half of a long class's run to fill a GPU
)

CHECK = (Configuration("1024 labels", 4, 1, {"ROWS": 1024}),)


@dataclass(frozen=True)
class Segments:
    """Hold the tokens of every class, cut into segments of at most ``SEGMENT``.

    Sizes depend on shapes alone: nothing here waits for the device. ``V`` in a list of classes
    means that the entry is not used.
    """

    order: Tensor  # [N] int64: positions of tokens, those of a class together and in order
    begins: Tensor  # [V + 1] int64: where in the order each class begins
    counts: Tensor  # [V] int64
    segment_class: Tensor  # [P] int64: the class of every segment
    segment_ends: Tensor  # [V] int64: segments of classes up to and including this one
    partial_ends: Tensor  # [V] int64: the same, counting only classes of several segments
    long_class: Tensor  # [M] int64: classes of several segments
    partials: int  # how many segments belong to such classes at most


@triton.jit(do_not_specialize=["slot"])
def _class_keys(y, stride, keys, num_classes, count, table, slot, ROWS: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < count
    label = tl.load(y + rows * stride, mask=inside, other=IGNORE_INDEX)
    valid = (label >= 0) & (label < num_classes)
    bad = inside & (label != IGNORE_INDEX) & ((label < 0) | (label >= num_classes))
    report_error(table, slot, tl.min(tl.where(bad, rows, NOWHERE), axis=0))
    tl.store(keys + rows, tl.where(valid, label, num_classes).to(tl.int32), mask=inside)


def class_keys(op: str, y: Tensor, num_classes: int) -> Tensor:
    """Return [N] int32: each token's class, or ``num_classes`` where it is ignored."""
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


def segments_of(keys: Tensor, num_classes: int) -> Segments:
    """Sort tokens by class and cut the classes into segments."""
    tokens, device = keys.shape[0], keys.device
    ordered, order = torch.sort(keys, stable=True)
    bounds = torch.arange(num_classes + 1, dtype=torch.int32, device=device)
    begins = torch.searchsorted(ordered, bounds)
    counts = begins.diff()
    segments = (counts + (SEGMENT - 1)) // SEGMENT
    several = segments > 1
    segment_ends = segments.cumsum(0)
    partial_ends = torch.where(several, segments, 0).cumsum(0)
    # A class of several segments has more than SEGMENT tokens, under 2 segments per SEGMENT.
    return Segments(
        order=order,
        begins=begins,
        counts=counts,
        segment_class=members(segment_ends, tokens // SEGMENT + min(tokens, num_classes)),
        segment_ends=segment_ends,
        partial_ends=partial_ends,
        long_class=members(several.cumsum(0), tokens // SEGMENT),
        partials=2 * tokens // SEGMENT,
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
    report_error(table, slot_range, tl.min(tl.where(outside, position, NOWHERE), axis=0))
    report_error(table, slot_double, tl.min(tl.where(double, position, NOWHERE), axis=0))


def check_index(op: str, index: Tensor | None, rows: int) -> None:
    """Report entries that name no row, or a row for the second time."""
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
