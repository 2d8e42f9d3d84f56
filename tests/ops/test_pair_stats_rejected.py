"""pair_stats: values, shapes, dtypes and options that are rejected."""

from __future__ import annotations

import math

import pytest
import torch

import ncfast.functional as F
from ncfast import DataError, use_backend
from ncfast.testing import tiny_tokens

from .backends import INTERPRETER, said


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_refuses_what_is_not_finite(backend, value):
    # Two tiles; points that coincide would be found from differences, one by one.
    count = 70 if backend == INTERPRETER else 150
    points, variances, center = tiny_tokens(count, 3, 2)[0], torch.ones(count), torch.zeros(3)
    with use_backend(backend):
        for tensor, name, at in (
            (points, rf"points\[{count - 1}, 1\]", (count - 1, 1)),
            (variances, r"variances\[7\]", (7,)),
            (center, r"center\[2\]", (2,)),
        ):
            before = tensor[at].clone()
            tensor[at] = value
            message = rf"pair_stats: {name} is {value}; expected"
            with pytest.raises(DataError, match=said(backend, message)):
                F.pair_stats(points, variances, center)
            tensor[at] = before


UNEVEN = torch.arange(1501.0)[None]  # more than are looked at together
UNEVEN[0, 3] += 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"index": torch.tensor([0, 2, 0])}, r"index\[2\] is 0 for the second time"),
        ({"index": torch.tensor([0, 3])}, r"index\[1\] is 3; expected a row in \[0, 3\)"),
        ({"variances": -torch.ones(3)}, r"variances\[0\] is -1; expected .* at least 0"),
        ({"edges": torch.tensor([[0.0, 1.0, 3.0]])}, r"edges\[0\] goes from 0 to 3; expected"),
        ({"edges": torch.tensor([[0.0, 2.0, 3.0]])}, r"edges\[0\] goes from 0 to 3; expected"),
        ({"edges": UNEVEN}, r"edges\[0\] goes from 0 to 1500; expected"),
        ({"edges": torch.tensor([[1.0, 0.0]])}, r"edges\[0\] goes from 1 to 0; expected"),
        ({"edges": torch.tensor([[0.0, 0.0]])}, r"edges\[0\] goes from 0 to 0; expected"),
        ({"edges": torch.tensor([[0.0, math.nan, 1.0]])}, r"edges\[0\] goes from 0 to 1"),
    ],
)
def test_refuses_values(backend, arguments, message):
    if "edges" in arguments:
        arguments = {"edges": arguments["edges"].double()}
    good = {"points": torch.ones(3, 2), "variances": torch.ones(3), "center": "none"}
    with (
        use_backend(backend),
        pytest.raises(DataError, match=f"pair_stats: {said(backend, message)}"),
    ):
        F.pair_stats(**{**good, **arguments})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"points": torch.ones(3)}, ValueError, r"points is .*\(3,\)"),
        ({"points": torch.ones(3, 2).long()}, TypeError, "points is torch.int64"),
        ({"variances": None}, ValueError, "variances is None; .* which cdnv needs"),
        ({"variances": torch.ones(2)}, ValueError, r"variances is .*\(2,\).*\[3\]"),
        ({"variances": torch.ones(3, device="meta")}, ValueError, "variances is .* meta"),
        ({"center": "mean"}, ValueError, "center is 'mean'; expected 'classes', 'none'"),
        ({"center": torch.zeros(3)}, ValueError, r"center is .*\(3,\)"),
        ({"kinds": "cdnv"}, ValueError, "kinds is 'cdnv'; expected one or more of"),
        ({"kinds": ()}, ValueError, r"kinds is \(\); expected one or more of"),
        ({"kinds": ("angle",)}, ValueError, "kinds is .*angle.*; expected one or more of"),
        ({"powers": (1, 1)}, ValueError, r"powers is \(1, 1\); expected one per kind, 1"),
        ({"powers": (3,)}, ValueError, "the power of cdnv is 3; expected 1 or 2"),
        ({"kinds": ("cosine",), "powers": (2,)}, ValueError, "power of cosine is 2; expected 1"),
        ({"targets": (1.0, 2.0)}, ValueError, "targets is .*; expected one per kind, 1"),
        ({"targets": (math.nan,)}, ValueError, "targets is .*; expected finite values"),
        ({"index": torch.ones(3)}, TypeError, "index is torch.float32"),
        ({"edges": torch.ones(1, 3)}, TypeError, "edges is torch.float32"),
        ({"edges": torch.ones(2, 3).double()}, ValueError, r"edges is .*\(2, 3\).*\[1, B\+1\]"),
        ({"edges": torch.ones(1, 1).double()}, ValueError, r"edges is \(1, 1\); expected two"),
    ],
)
def test_refuses_shapes_dtypes_and_options(arguments, error, message):
    good = {"points": torch.ones(3, 2), "variances": torch.ones(3)}
    with pytest.raises(error, match=f"pair_stats: .*{message}"):
        F.pair_stats(**{**good, **arguments})
