"""within_class_scatter: the definition, what it refuses, and its digits."""

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


def by_loops(x: list[list[int]], y: list[int], means: list[list[int]]) -> list[list[int]]:
    width = len(x[0])
    total = [[0] * width for _ in range(width)]
    for row, label in zip(x, y, strict=True):
        for a in range(width):
            for b in range(width):
                if label != -100:
                    total[a][b] += (row[a] - means[label][a]) * (row[b] - means[label][b])
    return total


class TestWithinClassScatter(GradientContract):
    """The contract of every op."""

    op = "within_class_scatter"
    outputs = ("scatter",)
    differentiable = (0, 2)
    deciding = (2,)

    @staticmethod
    def plain(dtype: torch.dtype, x: Tensor, y: Tensor, means: Tensor) -> tuple[Tensor]:
        kept = y != -100
        residuals = x[kept].to(dtype) - means.to(dtype)[y[kept]]
        return ((residuals.T @ residuals).double(),)

    @staticmethod
    def sized(n: int) -> tuple[Tensor, Tensor, Tensor]:
        return *tiny_tokens(n, 13, 7), tiny_tokens(7, 13, 7, seed=1)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_definition_on_integers(backend, dtype):
    x = [[1, -2, 3], [3, 4, 0], [100, 100, 100], [5, 0, -7], [7, 2, 1]]
    y, means = [2, 0, -100, 2, 0], [[1, 1, 1], [50, 50, 50], [3, -4, 2]]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    with use_backend(backend):
        found = F.within_class_scatter(
            torch.tensor(x, dtype=dtype), torch.tensor(y), torch.tensor(means, dtype=wide)
        )
    assert found.tolist() == by_loops(x, y, means)


@in_float64
def test_invariances(backend):
    x, y = tiny_tokens(211, 13, 7, torch.float64)
    means = tiny_tokens(7, 13, 7, torch.float64, seed=1)[0]
    order, relabelled = torch.randperm(211), torch.randperm(7)
    new_label = torch.argsort(relabelled)
    with use_backend(backend):
        scatter = F.within_class_scatter(x, y, means)
        same = [
            F.within_class_scatter(x[order], y[order], means),
            F.within_class_scatter(x + 2.5, y, means + 2.5),
            F.within_class_scatter(x * -4, y, means * -4) / 16,
            F.within_class_scatter(
                x, torch.where(y < 0, y, new_label[y.clamp(min=0)]), means[relabelled]
            ),
            F.within_class_scatter(x[:100], y[:100], means)
            + F.within_class_scatter(x[100:], y[100:], means),
        ]
    assert torch.equal(scatter, scatter.T)
    for other in same:
        assert (other - scatter).abs().max() <= 1e-13 * scatter.abs().max()


@in_float64
def test_trace_is_the_spread(backend):
    x, y = tiny_tokens(211, 13, 7, torch.float64)
    with use_backend(backend):
        _, means, m2 = F.class_moments(x, y, 7)
        scatter = F.within_class_scatter(x, y, means)
    torch.testing.assert_close(scatter.trace(), m2.sum(), rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: y[3].fill_(7), r"y\[3\] is 7; expected a class in \[0, 7\) or -100"),
        (lambda x, y: y[4].fill_(-1), r"y\[4\] is -1"),
        (lambda x, y: x[5, 2].fill_(math.nan), r"x\[5, 2\] is nan; expected finite"),
        (lambda x, y: x[58, 12].fill_(math.inf), r"x\[58, 12\] is inf"),
        (lambda x, y: x[7:, 0].fill_(-math.inf), r"x\[7, 0\] is -inf"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_refuses_values(backend, dtype, change, message):
    x, y = tiny_tokens(61, 13, 7, dtype)
    means = torch.zeros(7, 13, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    change(x, y)
    with (
        use_backend(backend),
        pytest.raises(DataError, match=f"within_class_scatter: {said(backend, message)}"),
    ):
        F.within_class_scatter(x, y, means)


@pytest.mark.parametrize(
    ("means", "error", "message"),
    [
        (torch.zeros(2, 3), ValueError, r"means is .*\(2, 3\)"),
        (torch.zeros(2), ValueError, r"means is .*\(2,\)"),
        (torch.zeros(2, 2, dtype=torch.bfloat16), TypeError, "means is torch.bfloat16"),
        (torch.zeros(2, 2, device="meta"), ValueError, "means is .* meta"),
        (None, TypeError, "means is a NoneType"),
    ],
)
def test_refuses_means(means, error, message):
    with pytest.raises(error, match=f"within_class_scatter: {message}"):
        F.within_class_scatter(torch.ones(3, 2), torch.zeros(3, dtype=torch.int64), means)


def test_refuses_float64_features_with_float32_means():
    x = torch.ones(3, 2, dtype=torch.float64)
    with pytest.raises(TypeError, match=r"means is torch\.float32"):
        F.within_class_scatter(x, torch.zeros(3, dtype=torch.int64), torch.zeros(2, 2))


def test_trace_far_from_the_origin(backend):
    generator = torch.Generator().manual_seed(5)
    centres = torch.randn(11, 64, generator=generator)
    centres *= 1000 / centres.norm(dim=1, keepdim=True)
    y = torch.randint(0, 11, (9001,), generator=generator)
    x = centres[y] + torch.randn(9001, 64, generator=generator)
    exact = (x.double() - centres.double()[y]).square().sum()
    with use_backend(backend):
        found = F.within_class_scatter(x, y, centres).trace()
    assert abs(float(found - exact)) <= 1e-6 * float(exact)
