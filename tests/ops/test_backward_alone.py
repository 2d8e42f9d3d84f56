"""Backward ops by themselves: what a forward pass could not stop, and sums it has no part in.

A kernel of a GPU cannot raise: bad labels and indices come to the backward pass as they are.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ncfast import DataError, use_backend
from ncfast.testing import assert_matches, rounding_floor, tiny_tokens

WIDTH, CLASSES = 16, 4


def of_labels(op: str, x: Tensor, y: Tensor, means: Tensor) -> tuple[Any, ...]:
    """Return the arguments of the backward op of an op of tokens."""
    ones = torch.ones(len(x))
    return {
        "class_moments": (means, None, x, y, torch.ones(CLASSES, dtype=torch.int64), means),
        "within_class_scatter": (torch.eye(WIDTH).double(), x, y, means, True, True),
        "linear_cross_entropy": (
            *(ones, None, x, means, y, None, ones, x.new_zeros(0), 0.0, 0, CLASSES, 0.0),
            *(True, True, False),
        ),
    }[op]


def of_index(op: str, x: Tensor, index: Tensor) -> tuple[Any, ...]:
    """Return the arguments of the backward op of an op of points."""
    sums = torch.ones(1, 6).double()
    return {
        "alignment": (torch.ones(len(index)), x, x, x[0], index, True, True, True),
        "between_class_scatter": (torch.eye(WIDTH).double(), x, None, x[0], index, True, True),
        "pair_stats": (sums, x, None, x[0], index, sums, [2], [1], True, False, True),
    }[op]


@pytest.mark.parametrize("value", [CLASSES, -1, 2**40])
@pytest.mark.parametrize("op", ["class_moments", "within_class_scatter", "linear_cross_entropy"])
def test_a_bad_label_is_named(backend, op, value):
    x, y = tiny_tokens(37, WIDTH, CLASSES)
    y[5] = value
    args = of_labels(op, x, y, tiny_tokens(CLASSES, WIDTH, 2)[0])
    with use_backend(backend), pytest.raises(DataError, match=rf"y\[5\] is {value}; expected"):
        getattr(torch.ops.ncfast, f"{op}_backward")(*args)


@pytest.mark.parametrize("value", [9, -1, 2**40])
@pytest.mark.parametrize("op", ["alignment", "between_class_scatter", "pair_stats"])
def test_a_bad_index_is_named(backend, op, value):
    args = of_index(op, tiny_tokens(9, WIDTH, 2)[0], torch.tensor([4, 0, value, 3]))
    message = rf"index\[2\] is {value}; expected"
    with use_backend(backend), pytest.raises(DataError, match=message):
        getattr(torch.ops.ncfast, f"{op}_backward")(*args)


@pytest.mark.parametrize("n", [49_153])
def test_the_gradient_of_a_center_of_many_rows(backend, n):
    """Sums of 64 rows each are exact here; added up in float32, they would lose the last bits."""
    rows = torch.full((n, 1), 1 + 2.0**-17)
    grad = torch.ones(1, 1, dtype=torch.float64)
    with use_backend(backend):
        found = torch.ops.ncfast.between_class_scatter_backward(
            grad, rows, None, torch.zeros(1), None, False, True
        )[1]
    exact, plain = (-2 * rows.to(t).sum(0) for t in (torch.float64, torch.float32))
    floor = rounding_floor(exact, torch.float32, torch.float32)
    assert_matches(found, exact, plain, floor=floor)


@pytest.mark.slow
def test_the_gradient_of_a_center_of_many_columns(backend):
    """A block has 1,024 of them, and one row of sums."""
    rows = tiny_tokens(5, 1061, 2)[0]
    center, grad = rows[0] * 0.5, torch.eye(1061, dtype=torch.float64)
    with use_backend(backend):
        found = torch.ops.ncfast.between_class_scatter_backward(
            grad, rows, None, center, None, False, True
        )[1]
    exact, plain = (-2 * (rows - center).to(t).sum(0) for t in (torch.float64, torch.float32))
    floor = rounding_floor(exact, torch.float32, torch.float32)
    assert_matches(found, exact, plain, floor=floor)
