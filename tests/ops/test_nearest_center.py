"""nearest_center: the definition, ties, means far from the origin, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import ncfast.functional as F
from ncfast import DataError, use_backend
from ncfast.testing import tiny_tokens

from .backends import in_float64, said
from .contract import OpContract

EXACT = "donot_use_mm_for_euclid_dist"


class TestNearestCenter(OpContract):
    """The contract of every op."""

    op = "nearest_center"
    outputs = ("classes", "margin")
    deciding = (0, 1)

    @staticmethod
    def plain(
        dtype: torch.dtype, x: Tensor, means: Tensor, index: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ids = torch.arange(means.shape[0]) if index is None else index
        gaps = x.to(dtype)[:, None] - means.to(dtype)[ids][None]
        order = torch.argsort(ids)
        halves = gaps.square().sum(2)[:, order] / 2
        ranked, place = torch.sort(halves, dim=1, stable=True)
        return ids[order][place[:, 0]], ranked[:, 1] - ranked[:, 0]

    @classmethod
    def output_scale(cls, args, name):
        # A margin is half the difference of two squared distances.
        x, means = args[0].double(), args[1].double()
        if name != "margin" or not len(x):
            return None
        rows = means if args[2] is None else means[args[2]]
        return float(torch.cdist(x, rows, compute_mode=EXACT).square().max()) / 2

    @staticmethod
    def sized(n: int) -> tuple[Tensor, Tensor, None]:
        return tiny_tokens(17, 13, 7)[0], tiny_tokens(n, 13, 7, seed=1)[0], None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_definition_on_integers(backend, dtype):
    x = [[0, 0], [5, 1], [-2, 3], [1, 1], [7, 7]]
    means = [[3, 4], [-4, 3], [5, 0], [0, 2], [2, 0], [9, 9]]
    allowed = [5, 4, 3, 2, 0]
    expected = []
    for token in x:
        halves = [
            (sum((a - b) ** 2 for a, b in zip(token, means[k], strict=True)) / 2, k)
            for k in allowed
        ]
        first, second = sorted(halves)[:2]
        expected.append((first[1], second[0] - first[0]))
    with use_backend(backend):
        classes, margin = F.nearest_center(
            torch.tensor(x, dtype=dtype), torch.tensor(means, dtype=dtype), torch.tensor(allowed)
        )
    assert list(zip(classes.tolist(), margin.tolist(), strict=True)) == expected
    assert expected[0] == (3, 0)  # classes 3 and 4 are equally far
    assert expected[3][1] == 0


@pytest.mark.parametrize("classes", [2, 8, 256, 257, 1103])
def test_equal_means_tie_wherever_they_are(backend, classes):
    means = torch.tensor([[1.0, 0.5, -3.0]]).repeat(classes, 1)
    x = tiny_tokens(5, 3, 2)[0]
    with use_backend(backend):
        chosen, margin = F.nearest_center(x, means)
        backwards = F.nearest_center(x, means, torch.arange(classes - 1, 0, -1))[0]
    assert chosen.tolist() == [0] * 5
    assert margin.tolist() == [0.0] * 5
    assert backwards.tolist() == [1] * 5


def test_one_class_has_no_rival(backend):
    with use_backend(backend):
        classes, margin = F.nearest_center(torch.ones(2, 3), torch.zeros(1, 3))
    assert classes.tolist() == [0, 0]
    assert margin.tolist() == [math.inf] * 2


@pytest.mark.parametrize("offset", [0.0, 30.0, 1000.0])
def test_means_far_from_the_origin_lose_nothing(backend, offset):
    # As plain float32 differences do: at an offset of 1,000, <x, m> - |m|^2/2 itself errs by 0.5.
    x, means = tiny_tokens(300, 64, 2)[0] + offset, tiny_tokens(97, 64, 2, seed=1)[0] + offset
    truth = TestNearestCenter.plain(torch.float64, x, means, None)
    with use_backend(backend):
        classes, margin = F.nearest_center(x, means)
    assert torch.equal(classes, truth[0])
    # Coordinates less an origin among them are exact: what rounds is products of size 10.
    assert (margin.double() - truth[1]).abs().max() <= 64 * 10 * 2**-24


@in_float64
def test_zero_spread_is_its_own_class(backend):
    # An exact simplex: the tokens of a class are its mean.
    means = torch.eye(5, dtype=torch.float64) - 1 / 5
    with use_backend(backend):
        classes, margin = F.nearest_center(means, means)
    assert classes.tolist() == [0, 1, 2, 3, 4]
    assert (margin - 1).abs().max() <= 1e-15


def test_absent_means_are_never_read(backend):
    x, means = tiny_tokens(7, 5, 2)[0], tiny_tokens(11, 5, 2, seed=1)[0]
    index = torch.tensor([8, 1, 6])
    with use_backend(backend):
        clean = F.nearest_center(x, means, index)
        outside = torch.ones(11, dtype=torch.bool)
        outside[index] = False
        means[outside] = math.nan
        for a, b in zip(clean, F.nearest_center(x, means, index), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_refuses_what_is_not_finite(backend, value):
    x, means = torch.ones(3, 3), torch.ones(500, 3)
    with use_backend(backend):
        for tensor, name, at in ((x, "x", (2, 1)), (means, "means", (499, 2))):
            tensor[at] = value
            message = rf"nearest_center: {name}\[{at[0]}, {at[1]}\] is {value}; expected finite"
            with pytest.raises(DataError, match=said(backend, message)):
                F.nearest_center(x, means)
            tensor[at] = 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": torch.ones(3)}, ValueError, r"x is .*\(3,\)"),
        ({"means": torch.ones(4, 3)}, ValueError, r"means is .*\(4, 3\).*\[V, 2\]"),
        ({"means": torch.ones(0, 2)}, ValueError, "there is no class to choose from"),
        ({"means": torch.ones(4, 2).long()}, TypeError, "means is torch.int64"),
        ({"index": torch.tensor([4])}, DataError, r"index\[0\] is 4; expected a row in \[0, 4\)"),
        ({"index": torch.tensor([1, 1])}, DataError, r"index\[1\] is 1 for the second time"),
        ({"index": torch.tensor([1.0])}, TypeError, "index is torch.float32"),
    ],
)
def test_refuses(backend, arguments, error, message):
    good = {"x": torch.ones(3, 2), "means": torch.ones(4, 2)}
    with (
        use_backend(backend),
        pytest.raises(error, match=f"nearest_center: {said(backend, message)}"),
    ):
        F.nearest_center(**{**good, **arguments})
