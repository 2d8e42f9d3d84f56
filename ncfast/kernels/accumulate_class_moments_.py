"""Running counts, means and spreads of classes, updated in place."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import device_errors, native
from .grams import gram
from .labels import class_keys, members, pieces_of
from .launching import Configuration, launch
from .rows import Rows
from .segments import segment_moments
from .tiles import load_vector

__all__ = ["accumulate_class_moments_"]

OP = "accumulate_class_moments_"
MERGE = (Configuration("512 columns", 4, 2, {"COLUMNS": 512}),)


@triton.jit
def _merge_batch(
    classes, begins, counts, means, m2, batch_means, batch_m2, num_classes, width,
    GAPS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64)
    c = tl.load(classes + place)
    if c >= num_classes:
        if GAPS:
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
        gap = own - mean
        squares += gap * gap
        moved = mean + gap * share.to(tl.float32)
        tl.store(means + c * width + columns, moved, mask=columns < width)
        if GAPS:  # the rows whose products the scatter grows by, over the means nobody needs now
            row = gap * tl.sqrt_rn(weight.to(tl.float32))
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
    pieces = pieces_of(keys, num_classes)
    ranks = (pieces.counts > 0).cumsum(0)
    slots = ranks - 1
    classes = members(ranks, min(x.shape[0], num_classes))
    batch_means = native.allocate((classes.shape[0], width), torch.float32, x.device)
    batch_m2 = native.allocate((classes.shape[0],), torch.float32, x.device)
    segment_moments(OP, x, pieces, batch_means, batch_m2, slots=slots)
    # From bad data until somebody asks, nothing is added: no class, and no token of the scatter.
    clean = device_errors.nothing_found(OP, x.device)
    classes = torch.where(clean, classes, num_classes)
    if scatter is not None:
        # A token's mean lies in the row of its class; a token that does not count stays out.
        places = torch.cat([slots, slots.new_full((1,), classes.shape[0])])[keys].int()
        places = torch.where(clean, places, classes.shape[0])
        gram(Rows(x, base=batch_means, keys=places), scatter, add=True)
    launch(
        _merge_batch,
        lambda t: (classes.shape[0],),
        MERGE,
        *(classes, pieces.begins, counts, means, m2, batch_means, batch_m2, num_classes, width),
        GAPS=scatter is not None,
    )
    if scatter is not None:
        gram(Rows(batch_means), scatter, add=True)
