"""between_class_scatter: the definition and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import ncfast.functional as F
from ncfast import DataError, use_backend
from ncfast.testing import tiny_tokens

from .backends import in_float64, said
from .contract import GradientContract


def by_loops(means, weights, center, index):
    width = len(means[0])
    total = [[0] * width for _ in range(width)]
    for k, row in enumerate(index):
        for a in range(width):
            for b in range(width):
                left, right = means[row][a] - center[a], means[row][b] - center[b]
                total[a][b] += weights[k] * left * right
    return total


class TestBetweenClassScatter(GradientContract):
    """The contract of every op."""

    op = "between_class_scatter"
    outputs = ("scatter",)
    differentiable = (0, 2)

    @staticmethod
    def plain(
        dtype: torch.dtype,
        means: Tensor,
        weights: Tensor | None,
        center: Tensor | str,
        index: Tensor | None,
    ) -> tuple[Tensor]:
        rows = means.to(dtype) if index is None else means.to(dtype)[index]
        if isinstance(center, str):
            origin = rows.sum(0) / max(len(rows), 1) if center == "classes" else 0.0
        else:
            origin = center.to(dtype)
        centred = rows - origin
        weighted = centred if weights is None else centred * weights.to(dtype)[:, None]
        return ((weighted.T @ centred).double(),)

    @staticmethod
    def sized(n: int) -> tuple[Tensor, None, str, None]:
        return tiny_tokens(n, 13, 7)[0], None, "classes", None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_definition_on_integers(backend, dtype):
    means = [[1, -2, 3], [3, 4, 0], [100, 100, 100], [5, 0, -7], [7, 6, 4]]
    # Rows 3, 0, 1, 4 have the mean [4, 2, 0]; weights are squares, whose roots are exact.
    weights, index = [4, 1, 0, 9], [3, 0, 1, 4]
    tensors = torch.tensor(means, dtype=dtype), torch.tensor(weights, dtype=dtype)
    with use_backend(backend):
        found = F.between_class_scatter(*tensors, "classes", torch.tensor(index))
        raw = F.between_class_scatter(tensors[0], None, "none")
    assert found.tolist() == by_loops(means, weights, [4, 2, 0], index)
    assert raw.tolist() == by_loops(means, [1] * 5, [0, 0, 0], range(5))


@in_float64
def test_invariances(backend):
    means = tiny_tokens(53, 13, 7, torch.float64)[0]
    weights = torch.rand(53, dtype=torch.float64)
    order = torch.randperm(53)
    with use_backend(backend):
        scatter = F.between_class_scatter(means, weights)
        same = [
            F.between_class_scatter(means[order], weights[order]),
            F.between_class_scatter(means, weights[order], index=order),
            F.between_class_scatter(means + 2.5, weights),
            F.between_class_scatter(means * -4, weights) / 16,
            F.between_class_scatter(means, weights * 3) / 3,
            F.between_class_scatter(means, weights, center=means.mean(0)),
        ]
    assert torch.equal(scatter, scatter.T) or backend == "reference"
    for other in same:
        assert (other - scatter).abs().max() <= 1e-13 * scatter.abs().max()


def test_rows_left_out_may_hold_anything(backend):
    means = tiny_tokens(7, 5, 7)[0]
    index = torch.tensor([5, 0, 2])
    with use_backend(backend):
        clean = F.between_class_scatter(means, None, "classes", index)
        means[1] = math.nan
        leaf = means.requires_grad_()
        found = F.between_class_scatter(leaf, None, "classes", index)
        grad = torch.autograd.grad(found.sum(), leaf)[0]
    assert torch.equal(found, clean)
    assert grad[[1, 3, 4, 6]].tolist() == [[0.0] * 5] * 4


@pytest.mark.parametrize(
    ("weights", "index", "message"),
    [
        ([1.0, -2.0, 1.0], None, r"weights\[1\] is -2; expected a finite weight of at least 0"),
        ([1.0, 1.0, -0.5], None, r"weights\[2\] is -0.5; expected"),
        ([math.nan, 1.0, 1.0], None, r"weights\[0\] is nan; expected"),
        ([-math.nan, 1.0, 1.0], None, r"weights\[0\] is nan; expected"),
        ([1.0, math.inf, 1.0], None, r"weights\[1\] is inf; expected"),
        (None, [0, 2, 0], r"index\[2\] is 0 for the second time; expected distinct rows"),
        (None, [0, 3], r"index\[1\] is 3; expected a row in \[0, 3\)"),
        (None, [-1], r"index\[0\] is -1; expected a row in \[0, 3\)"),
    ],
)
@pytest.mark.parametrize("center", ["none", "classes"])
def test_refuses_values(backend, center, weights, index, message):
    with (
        use_backend(backend),
        pytest.raises(DataError, match=f"between_class_scatter: {said(backend, message)}"),
    ):
        F.between_class_scatter(
            torch.ones(3, 2),
            None if weights is None else torch.tensor(weights),
            center,
            None if index is None else torch.tensor(index),
        )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"means": torch.ones(3)}, ValueError, r"means is .*\(3,\)"),
        ({"means": torch.ones(3, 2).long()}, TypeError, "means is torch.int64"),
        ({"weights": torch.ones(2)}, ValueError, r"weights is .*\(2,\)"),
        ({"weights": torch.ones(3).long()}, TypeError, "weights is torch.int64"),
        ({"index": torch.ones(3)}, TypeError, "index is torch.float32"),
        ({"index": torch.ones(1, 1).long()}, ValueError, r"index is .*\(1, 1\)"),
        ({"index": torch.ones(1, device="meta").long()}, ValueError, "index is .* meta"),
        ({"center": "token"}, ValueError, "center is 'token'; expected 'classes', 'none'"),
        ({"center": torch.zeros(3)}, ValueError, r"center is .*\(3,\)"),
        ({"center": torch.zeros(2).long()}, TypeError, "center is torch.int64"),
    ],
)
def test_refuses_shapes_dtypes_and_devices(arguments, error, message):
    with pytest.raises(error, match=f"between_class_scatter: {message}"):
        F.between_class_scatter(**{"means": torch.ones(3, 2), **arguments})
