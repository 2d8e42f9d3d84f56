"""Rows and columns that lie 2^31 elements apart: offsets of 32 bits read something else.

The memory is address space alone: of 2^33 elements and more, a few pages are ever touched.
"""

from __future__ import annotations

import mmap

import pytest
import torch
from torch import Tensor

import ncfast.functional as F
from ncfast import use_backend
from ncfast.testing import tiny_tokens

from .backends import OPS

STRIDE = 2**31 + 8
SHORTER = 2**30 + 8  # fits 32 bits, as a row does; their product does not
NO_RESERVE = 0x4000  # MAP_NORESERVE: no memory is promised, so none is missing
ROWS, WIDTH, CLASSES = 5, 4, 3


def far(values: Tensor, columns: bool = False) -> Tensor:
    """Return a tensor of one or two dimensions whose rows, or columns, lie 2^31 elements apart."""
    count = values.shape[1] if columns else values.shape[0]
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
    stride = SHORTER if values.dtype == torch.float32 else STRIDE
    memory = mmap.mmap(-1, (count * stride + 64) * values.element_size(), flags=flags)
    flat = torch.frombuffer(memory, dtype=values.dtype)
    strides = (1, stride) if columns else (stride, 1)[: values.ndim]
    result = flat.as_strided(values.shape, strides)
    return result.copy_(values)


def arguments(op: str, dtype: torch.dtype) -> tuple[list, list[int]]:
    """Return an op's arguments, and which of them may lie far apart."""
    x = tiny_tokens(ROWS, WIDTH, 2, dtype)[0]
    head, means = (tiny_tokens(ROWS, WIDTH, 2, dtype, seed=s)[0] for s in (1, 2))
    y = torch.tensor([2, 0, 2, -100, 0])
    wide = means.float()[:CLASSES]
    index = None if dtype == torch.float32 else torch.tensor([4, 0, 3])  # or the row's own number
    state = (
        torch.zeros(CLASSES, dtype=torch.int64),
        torch.zeros(CLASSES, WIDTH),
        torch.zeros(CLASSES, dtype=torch.float64),
        torch.zeros(WIDTH, WIDTH, dtype=torch.float64),
    )
    return {
        "class_moments": ([x, y, CLASSES], [0, 1]),
        "accumulate_class_moments_": ([*state, x, y], [4, 5]),
        "within_class_scatter": ([x, y, wide], [0, 1, 2]),
        "between_class_scatter": ([means, None, "classes", index], [0, 3]),
        "alignment": ([head, means, "classes", index], [0, 1, 3]),
        "pair_stats": ([means, wide[:, 0].new_ones(ROWS), "classes"], [0]),
        "linear_argmax": ([x, head, None, index], [0, 1, 3]),
        "nearest_center": ([x, means, index], [0, 1, 2]),
        "linear_cross_entropy": ([x, head, y], [0, 1, 2]),
    }[op]


def results(op: str, values: list) -> list[Tensor]:
    """Return outputs and gradients; what an op updates in place is its output."""
    if op.endswith("_"):
        state = [v.clone() for v in values[:4]]
        F.function_of(op)(*state, *values[4:])
        return state
    leaves = [
        v.detach().requires_grad_() if isinstance(v, Tensor) and v.is_floating_point() else v
        for v in values
    ]
    out = F.function_of(op)(*leaves)
    out = list(out) if isinstance(out, tuple) else [out]
    upstream = [
        t[:, :3].nan_to_num().sum() if op == "pair_stats" else t.sum()
        for t in out
        if t.requires_grad
    ]
    if not upstream:
        return out
    wanted = [v for v in leaves if isinstance(v, Tensor) and v.requires_grad]
    return out + list(torch.autograd.grad(sum(upstream), wanted, materialize_grads=True))


@pytest.mark.parametrize("columns", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("op", OPS)
def test_offsets_past_two_to_the_31st(backend, op, dtype, columns):
    near, movable = arguments(op, dtype)
    values = list(near)
    for i in movable:
        if near[i] is None:
            continue
        if near[i].ndim == 2:
            values[i] = far(near[i], columns)
        elif not columns:
            values[i] = far(near[i])
    with use_backend(backend):
        for found, expected in zip(results(op, values), results(op, near), strict=True):
            torch.testing.assert_close(found, expected, equal_nan=True)
