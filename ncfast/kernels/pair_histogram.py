"""Counts of values by bin, and what is checked of the bins."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .. import device_errors
from .labels import CHECK
from .launching import launch
from .pair_points import OP
from .tiles import NOWHERE, report_error

__all__ = ["checked_bins", "count_by_bin"]

SPAN = tl.constexpr(256)  # bins counted at a time


@triton.jit(do_not_specialize=["slot"])
def _check_edges(edges, bins, table, slot, ROWS: tl.constexpr):
    p = tl.program_id(0)
    edge = edges + p * (bins + 1)
    low = tl.load(edge)
    width = (tl.load(edge + bins) - low) / tl.cast(bins, tl.float64)
    bad = ((width > 0) & (width - width == 0)) == 0
    for first in range(0, bins + 1, ROWS):
        i = first + tl.arange(0, ROWS)
        away = tl.load(edge + i, mask=i <= bins, other=0.0) - low - i.to(tl.float64) * width
        uneven = (i <= bins) & ((tl.abs(away) <= 1e-3 * width) == 0)
        bad = bad | (tl.max(uneven.to(tl.int32), axis=0) > 0)
    report_error(table, slot, tl.where(bad, p.to(tl.int64), NOWHERE))


@triton.jit
def count_by_bin(values, has, edges, bins, histogram):
    """Count values by bin: floor((value - first) B / (last - first)), the last edge in the last."""
    low, high = tl.load(edges), tl.load(edges + bins)
    scale = (tl.cast(bins, tl.float64) / (high - low)).to(tl.float32)
    inside = has & (values >= low.to(tl.float32)) & (values <= high.to(tl.float32))
    place = tl.where(inside, (values - low.to(tl.float32)) * scale, 0.0).to(tl.int32)
    place = tl.where(inside, tl.minimum(place, bins - 1), -1)
    # In any order, so that values stay in the registers they are in.
    place = tl.reshape(place, (place.numel,), can_reorder=True)
    for first in range(0, bins, SPAN):
        here = (place >= first) & (place < first + SPAN)
        counts = tl.histogram(tl.where(here, place - first, 0), SPAN, mask=here)
        bin = first + tl.arange(0, SPAN)
        # Whole numbers: adding them in any order is exact.
        tl.atomic_add(
            histogram + bin, counts.to(tl.int64), mask=(counts > 0) & (bin < bins), sem="relaxed"
        )


def checked_bins(edges: Tensor | None) -> tuple[Tensor | None, int]:
    """Return contiguous edges that have been checked, and the number of bins."""
    if edges is None:
        return None, 0
    launch(
        _check_edges,
        lambda t: (edges.shape[0],),
        CHECK,
        *(edges.contiguous(), edges.shape[1] - 1, device_errors.table(edges.device)),
        device_errors.declare(
            f"{OP}: edges[{{}}] is not of finite ascending edges of bins of one width"
        ),
    )
    return edges.contiguous(), edges.shape[1] - 1
