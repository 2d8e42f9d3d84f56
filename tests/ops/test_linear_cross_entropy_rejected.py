"""linear_cross_entropy: values and arguments that are rejected."""

from __future__ import annotations

import math

import pytest
import torch

import ncfast.functional as F
from ncfast import DataError, use_backend

from .backends import said

BAD_VALUES = [
    ({"y": torch.tensor([0, 4])}, r"y\[1\] is 4; expected a class in \[0, 4\)"),
    ({"y": torch.tensor([-1, 0])}, r"y\[0\] is -1"),
    ({"x": torch.tensor([[0.0, 0.0, math.nan], [0, 0, 0]])}, r"x\[0, 2\] is nan"),
    ({"y": torch.tensor([0, 9]), "vocab_start": 5}, r"y\[1\] is 9; .* \[0, 9\)"),
]


@pytest.mark.parametrize(("change", "message"), BAD_VALUES)
def test_refuses_values(backend, change, message):
    good = {"x": torch.ones(2, 3), "head_weight": torch.ones(4, 3), "y": torch.tensor([0, 3])}
    message = said(backend, f"linear_cross_entropy: {message}")
    with use_backend(backend), pytest.raises(DataError, match=message):
        F.linear_nll_lse(**{**good, **change})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"head_weight": torch.ones(4, 2)}, ValueError, r"head_weight is .*\(4, 2\).*\[V, 3\]"),
        ({"head_weight": torch.ones(0, 3)}, ValueError, "head_weight is .*at least one row"),
        ({"head_bias": torch.ones(3)}, ValueError, r"head_bias is .*\(3,\).*\[4\]"),
        ({"head_bias": torch.ones(4).double()}, TypeError, "head_bias is torch.float64"),
        ({"y": torch.ones(2)}, TypeError, "y is torch.float32"),
        ({"softcap": -1.0}, ValueError, "softcap is -1.0; expected 0 or a positive number"),
        ({"softcap": math.nan}, ValueError, "softcap is nan"),
        ({"label_smoothing": 1.5}, ValueError, r"label_smoothing is 1.5; expected \[0, 1\]"),
        (
            {"softcap": 5.0, "label_smoothing": 0.1},
            ValueError,
            "label_smoothing is 0.1 and .* no closed form",
        ),
        ({"vocab_start": -1}, ValueError, "vocab_start is -1"),
        ({"vocab_start": 5, "vocab_size": 5}, ValueError, r"vocab_start is 5; .* \[0, 5\)"),
        ({"memory_budget": -1}, ValueError, "memory_budget is -1"),
    ],
)
def test_refuses_arguments(arguments, error, message):
    good = {"x": torch.ones(2, 3), "head_weight": torch.ones(4, 3), "y": torch.tensor([0, 3])}
    with pytest.raises(error, match=f"linear_cross_entropy: {message}"):
        F.linear_nll_lse(**{**good, **arguments})
