"""Running counts, means and spreads of classes, updated in place."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import device_errors, native
from .grams import gram
from .labels import class_keys, members, segments_of
from .launching import Configuration, launch
from .rows import CenteredRows
from .segments import segment_moments
from .tiles import load_vector

__all__ = ["accumulate_class_moments_"]

OP = "accumulate_class_moments_"
MERGE = (Configuration("512 columns", 4, 2, {"COLUMNS": 512}),)


@triton.jit
def _merge_batch(
    classes, begins, counts, means, m2, batch_means, batch_m2, num_classes, width,
    DIFFERENCES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64)
    c = tl.load(classes + place)
    if c >= num_classes:
        if DIFFERENCES:
            for d in range(0, width, COLUMNS):
                columns = d + tl.arange(0, COLUMNS)
                nothing = tl.zeros((COLUMNS,), tl.float32)
                tl.store(batch_means + place * width + columns, nothing, mask=columns < width)
        return
    before = tl.load(counts + c)
    added = tl.load(begins + c + 1) - tl.load(begins + c)
    share = added.to(tl.float64) / (before + added).to(tl.float64)
    weight = before.to(tl.float64) * share
    squares = tl.zeros((COLUMNS,), tl.float32)
    for d in range(0, width, COLUMNS):
        columns = d + tl.arange(0, COLUMNS)
        own = load_vector(batch_means + place * width, 1, columns, width)
        mean = load_vector(means + c * width, 1, columns, width)
        difference = own - mean
        squares += difference * difference
        moved = mean + difference * share.to(tl.float32)
        tl.store(means + c * width + columns, moved, mask=columns < width)
        if DIFFERENCES:  # the rows whose products the scatter grows by, over means no longer needed
            row = difference * tl.sqrt_rn(weight.to(tl.float32))
            tl.store(batch_means + place * width + columns, row, mask=columns < width)
    spread = tl.load(batch_m2 + place).to(tl.float64)
    spread += weight * tl.sum(squares, axis=0).to(tl.float64)
    tl.store(m2 + c, tl.load(m2 + c) + spread)
    tl.store(counts + c, before + added)


def accumulate_class_moments_(
    counts: Tensor, means: Tensor, m2: Tensor, scatter: Tensor | None, x: Tensor, y: Tensor
) -> None:
    """Merge a batch into running moments, touching only the classes that occur in it."""
    num_classes, width = means.shape
    keys = class_keys(OP, y, num_classes)
    segments = segments_of(keys, num_classes)
    ranks = (segments.counts > 0).cumsum(0)
    slots = ranks - 1
    classes = members(ranks, min(x.shape[0], num_classes))
    batch_means = native.allocate((classes.shape[0], width), torch.float32, x.device)
    batch_m2 = native.allocate((classes.shape[0],), torch.float32, x.device)
    segment_moments(OP, x, segments, batch_means, batch_m2, slots=slots)
    # After bad data nothing is added until the error is read: no class, no token of the scatter.
    clean = device_errors.nothing_found(OP, x.device)
    classes = torch.where(clean, classes, num_classes)
    if scatter is not None:
        # A token's mean is in the row of its class; an ignored token is left out.
        places = torch.cat([slots, slots.new_full((1,), classes.shape[0])])[keys].int()
        places = torch.where(clean, places, classes.shape[0])
        gram(CenteredRows(x, centers=batch_means, keys=places), scatter, add=True)
    launch(
        _merge_batch,
        lambda t: (classes.shape[0],),
        MERGE,
        *(classes, segments.begins, counts, means, m2, batch_means, batch_m2, num_classes, width),
        DIFFERENCES=scatter is not None,
    )
    if scatter is not None:
        gram(CenteredRows(batch_means), scatter, add=True)
