"""Finds the first NaN or Inf of an input whose results say that there may be one."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .. import device_errors
from .launching import Configuration, launch
from .rows import row_places
from .tiles import complain, first_nonfinite, load_tile

__all__ = ["complain_of_nonfinite", "complain_of_overflow"]

FIND = (Configuration("8 x 512", 4, 1, {"ROWS": 8, "COLUMNS": 512}),)


@triton.jit(do_not_specialize=["slot"])
def _find_nonfinite(
    finite, x, stride_n, stride_d, index, keys, count, rows_of_x, limit, width, table, slot,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    if tl.load(finite) != 0:
        return
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    rows, _, kept, _ = row_places(r, count, index, keys, None, rows_of_x, limit, False)
    for d in range(0, width, COLUMNS):
        columns = d + tl.arange(0, COLUMNS)
        tile = load_tile(x, stride_n, stride_d, rows, kept, columns, width)
        complain(table, slot, first_nonfinite(tile, rows))


def complain_of_nonfinite(
    op: str,
    name: str,
    finite: Tensor,
    x: Tensor,
    index: Tensor | None = None,
    keys: Tensor | None = None,
    limit: int = 0,
) -> None:
    """Look for a NaN or Inf in rows of a matrix, unless results say that there is none.

    ``finite`` [] bool, on the device, says whether all results are finite: an overflow makes this
    look, and is found to be no NaN. ``index`` [K] int64 are the rows that are used, and of these no
    row whose ``keys`` [K] int32 is not below ``limit``; None: all.
    """
    count = x.shape[0] if index is None else index.shape[0]
    complaint = f"{op}: {name}[{{}}] holds a NaN or Inf; expected finite values"
    launch(
        _find_nonfinite,
        lambda t: (triton.cdiv(count, t["ROWS"]),),
        FIND,
        *(finite.int(), x, *x.stride(), index, keys, count, x.shape[0], limit, x.shape[1]),
        *(device_errors.table(x.device), device_errors.declare(complaint)),
    )


def complain_of_overflow(op: str, complaint: str, finite: Tensor) -> None:
    """Complain of results that are not ``finite`` [] bool, though no argument is to blame."""
    slot = device_errors.declare(f"{op}: {complaint}")
    found = ~finite & device_errors.nothing_found(op, finite.device)
    device_errors.table(finite.device)[slot : slot + 1].masked_fill_(found, 0)
