"""A panel of weights times rows: the products that gradients of pairs are made of."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .launching import Configuration, dot_precision, launch
from .rows import CenteredRows, residual_tile, row_places
from .tiles import load_tile

__all__ = ["add_panel_products"]

# Three tf32 products, whose operands fill the registers of sm_80: 32 deep, bfloat16 spilled there.
PRODUCT = (
    Configuration("64 x 128 x 16", 8, 3, {"ROWS": 64, "COLUMNS": 128, "DEPTH": 16}),
    Configuration("64 x 64 x 16", 4, 3, {"ROWS": 64, "COLUMNS": 64, "DEPTH": 16}),
)


@triton.jit
def _add_panel_products(
    x, stride_n, stride_d, index, centers, stride_center_n, stride_center_d, keys, weights, count,
    rows_of_x, limit, width, panel, stride_r, stride_c, first, panel_rows, panel_columns, out,
    ADD: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = r < panel_rows
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for c in range(0, panel_columns, DEPTH):
        depth = c + tl.arange(0, DEPTH)
        a = load_tile(panel, stride_r, stride_c, r.to(tl.int64), inside, depth, panel_columns)
        k = (first + depth).to(tl.int64)
        stop = tl.minimum(first + panel_columns, count)
        rows, center_rows, row_mask, scales = row_places(
            k, stop, index, keys, weights, rows_of_x, limit, False
        )
        b = residual_tile(
            *(x, stride_n, stride_d, centers, stride_center_n, stride_center_d, keys, weights),
            *(rows, center_rows, row_mask, scales, columns, width),
        )
        total = tl.dot(a, b, total, input_precision=PRECISION)
    places = r[:, None].to(tl.int64) * width + columns[None, :]
    mask = inside[:, None] & (columns[None, :] < width)
    if ADD:
        total += tl.load(out + places, mask=mask, other=0.0)
    tl.store(out + places, total, mask=mask)


def add_panel_products(
    panel: Tensor, rows: CenteredRows, first: int, out: Tensor, add: bool
) -> None:
    """Write, or add, a panel [R, C] float32 of any strides times the rows from ``first`` on.

    ``out`` [R, D] is float32, contiguous; the sum over a panel is one of float32.
    """
    width = rows.x.shape[1]
    launch(
        _add_panel_products,
        lambda t: (triton.cdiv(panel.shape[0], t["ROWS"]), triton.cdiv(width, t["COLUMNS"])),
        PRODUCT,
        *(*rows.arguments(), panel, *panel.stride(), first, *panel.shape, out),
        key=() if add else ("width",),  # what is timed would be added
        ADD=add,
        PRECISION=dot_precision(),
    )
