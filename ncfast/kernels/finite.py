"""Finds the first NaN or Inf of an input whose results say that there may be one."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .. import device_errors
from .launching import Configuration, launch
from .rows import row_places
from .tiles import first_nonfinite, load_tile, report_error

__all__ = ["report_nonfinite", "report_overflow"]

FIND = (Configuration("8 x 512", 4, 1, {"ROWS": 8, "COLUMNS": 512}),)


@triton.jit(do_not_specialize=["slot"])
def _find_nonfinite(
    finite, x, stride_n, stride_d, index, keys, count, rows_of_x, limit, width, table, slot,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    if tl.load(finite) != 0:
        return
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    rows, _, row_mask, _ = row_places(r, count, index, keys, None, rows_of_x, limit, False)
    for d in range(0, width, COLUMNS):
        columns = d + tl.arange(0, COLUMNS)
        tile = load_tile(x, stride_n, stride_d, rows, row_mask, columns, width)
        report_error(table, slot, first_nonfinite(tile, rows))


def report_nonfinite(
    op: str,
    name: str,
    finite: Tensor,
    x: Tensor,
    index: Tensor | None = None,
    keys: Tensor | None = None,
    limit: int = 0,
) -> None:
    """Look for a NaN or Inf in rows of a matrix, unless results say that there is none.

    ``finite`` [] bool, on the device, says whether all results are finite; where they overflowed,
    the rows are searched and nothing is reported. ``index`` [K] int64 are the rows that are used,
    of these only rows whose ``keys`` [K] int32 are below ``limit``; None: all.
    """
    count = x.shape[0] if index is None else index.shape[0]
    message = f"{op}: {name}[{{}}] holds a NaN or Inf; expected finite values"
    launch(
        _find_nonfinite,
        lambda t: (triton.cdiv(count, t["ROWS"]),),
        FIND,
        *(finite.int(), x, *x.stride(), index, keys, count, x.shape[0], limit, x.shape[1]),
        *(device_errors.table(x.device), device_errors.declare(message)),
    )


def report_overflow(op: str, message: str, finite: Tensor) -> None:
    """Report results that are not ``finite`` [] bool though every argument is."""
    slot = device_errors.declare(f"{op}: {message}")
    found = ~finite & device_errors.nothing_found(op, finite.device)
    device_errors.table(finite.device)[slot : slot + 1].masked_fill_(found, 0)
