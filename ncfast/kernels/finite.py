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

    Args:
        op: whom to name.
        name: the matrix's name.
        finite: [] bool, on the device: whether all results are finite. An overflow makes this
            look, and is found to be no NaN.
        x: [R, D] float.
        index: [K] int64, the rows that are used; None: all.
        keys: [K] int32; a row whose key is not below ``limit`` is not used. None: all are.
        limit: see ``keys``.
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
    """Complain of results that are not finite though nothing an op was given is to blame.

    Args:
        op: whom to name.
        complaint: what overflowed, and what is expected.
        finite: [] bool, on the device: whether all results are finite.
    """
    slot = device_errors.declare(f"{op}: {complaint}")
    found = ~finite & device_errors.nothing_found(op, finite.device)
    device_errors.table(finite.device)[slot : slot + 1].masked_fill_(found, 0)
