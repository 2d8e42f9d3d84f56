"""class_moments: the definition, what it refuses, and its digits; the rest is the contract."""

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


def by_loops(x: list[list[int]], y: list[int], classes: int):
    """Return counts, sums and n^2 times the spread, all integers, from the definitions."""
    counts = [sum(1 for label in y if label == c) for c in range(classes)]
    sums = [[0] * len(x[0]) for _ in range(classes)]
    for row, label in zip(x, y, strict=True):
        for d, value in enumerate(row):
            if label != -100:
                sums[label][d] += value
    spreads = [0] * classes
    for row, label in zip(x, y, strict=True):
        for d, value in enumerate(row):
            if label != -100:
                spreads[label] += (counts[label] * value - sums[label][d]) ** 2
    return counts, sums, spreads


class TestClassMoments(GradientContract):
    """The contract of every op."""

    op = "class_moments"
    outputs = ("counts", "means", "m2")
    differentiable = (0,)

    @staticmethod
    def plain(dtype: torch.dtype, x: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, ...]:
        kept = y != -100
        x, y = x[kept].to(dtype), y[kept]
        counts = torch.bincount(y, minlength=num_classes)
        sums = x.new_zeros(num_classes, x.shape[1]).index_add(0, y, x)
        means = sums / counts.clamp(min=1)[:, None]
        squares = (x - means[y]).square().sum(1)
        return counts, means, x.new_zeros(num_classes).index_add(0, y, squares)

    @staticmethod
    def sized(n: int) -> tuple[Tensor, Tensor, int]:
        return *tiny_tokens(n, 13, 7), 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_definition_on_integers(backend, dtype):
    x = [[1, -2], [3, 4], [5, 0], [7, 2], [100, 100], [3, 4], [1, -8], [0, 0]]
    y = [2, 0, 2, 0, -100, 2, 2, 2]
    # Counts 2, 0, 5 would leave fifths: a sixth row, 8 in all, keeps every value exact.
    x, y = [*x, [-1, 3], [1, 1], [7, 2]], [*y, 2, 2, 2]
    counts, sums, spreads = by_loops(x, y, 4)
    assert counts == [2, 0, 8, 0]
    with use_backend(backend):
        found = F.class_moments(torch.tensor(x, dtype=dtype), torch.tensor(y), 4)
    scale = [max(n, 1) for n in counts]
    assert found[0].tolist() == counts
    assert found[1].tolist() == [[s / n for s in row] for row, n in zip(sums, scale, strict=True)]
    assert found[2].tolist() == [s / n**2 for s, n in zip(spreads, scale, strict=True)]


@in_float64
def test_invariances(backend):
    x, y = tiny_tokens(211, 13, 7, torch.float64)
    order, relabelled = torch.randperm(211), torch.randperm(7)

    def close(found, counts, means, m2):
        assert torch.equal(found[0], counts)
        torch.testing.assert_close(found[1], means, rtol=0, atol=1e-13)
        torch.testing.assert_close(found[2], m2, rtol=1e-13, atol=0)

    with use_backend(backend):
        counts, means, m2 = F.class_moments(x, y, 7)
        close(F.class_moments(x[order], y[order], 7), counts, means, m2)
        close(F.class_moments(x + 2.5, y, 7), counts, means + 2.5, m2)
        close(F.class_moments(x * -4, y, 7), counts, means * -4, m2 * 16)
        moved = F.class_moments(x, torch.where(y < 0, y, relabelled[y.clamp(min=0)]), 7)
        close([t[relabelled] for t in moved], counts, means, m2)
        close([t[:7] for t in F.class_moments(x, y, 23)], counts, means, m2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: y.fill_(7), r"y\[0\] is 7; expected a class in \[0, 7\) or -100"),
        (lambda x, y: y[3:].fill_(-1), r"y\[3\] is -1"),
        (lambda x, y: y[4:].fill_(2**40), r"y\[4\] is 1099511627776"),
        (lambda x, y: x[5, 2].fill_(math.nan), r"x\[5, 2\] is nan; expected finite"),
        (lambda x, y: x[58, 12].fill_(math.inf), r"x\[58, 12\] is inf"),
        (lambda x, y: x[7:, 0].fill_(-math.inf), r"x\[7, 0\] is -inf"),
    ],
)
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_refuses_values(backend, dtype, layout, change, message):
    x, y = tiny_tokens(61, 13, 7, dtype)
    x = x.T.contiguous().T if layout == "transposed" else x
    change(x, y)
    with (
        use_backend(backend),
        pytest.raises(DataError, match=f"class_moments: {said(backend, message)}"),
    ):
        F.class_moments(x, y, 7)


def test_names_the_first_bad_feature_at_any_thread_count(backend):
    x, y = tiny_tokens(1999, 13, 257)
    x[1001, 5] = math.nan
    x[1503] = math.nan  # its class, or its thread, may come first
    for count in (1, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            with (
                use_backend(backend),
                pytest.raises(DataError, match=said(backend, r"x\[1001, 5\]")),
            ):
                F.class_moments(x, y, 257)
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((torch.ones(3), torch.zeros(3, dtype=torch.int64), 2), ValueError, r"x is .*\(3,\)"),
        ((torch.ones(3, 2), torch.zeros(4, dtype=torch.int64), 2), ValueError, r"y is .*\(4,\)"),
        ((torch.ones(3, 2), torch.zeros(3), 2), TypeError, "y is torch.float32"),
        ((torch.ones(3, 2).long(), torch.zeros(3).long(), 2), TypeError, "x is torch.int64"),
        (([[1.0]], torch.zeros(1).long(), 2), TypeError, "x is a list"),
        ((torch.ones(3, 2), torch.zeros(3, device="meta").long(), 2), ValueError, "y is .* meta"),
        ((torch.ones(3, 2), torch.zeros(3).long(), 0), ValueError, "num_classes is 0"),
    ],
)
def test_refuses_shapes_dtypes_and_devices(args, error, message):
    with pytest.raises(error, match=f"class_moments: {message}"):
        F.class_moments(*args)


# -- digits


def far_from_origin(n: int, width: int, classes: int) -> tuple[Tensor, Tensor, float]:
    """Return features with |mean| = 1000 sigma and their within-class trace in float64."""
    generator = torch.Generator().manual_seed(5)
    centres = torch.randn(classes, width, generator=generator)
    centres *= 1000 / centres.norm(dim=1, keepdim=True)
    y = torch.randint(0, classes, (n,), generator=generator)
    x = centres[y] + torch.randn(n, width, generator=generator)
    m2 = TestClassMoments.plain(torch.float64, x, y, classes)[2]
    return x, y, float(m2.sum())


def test_spread_far_from_the_origin(backend):
    x, y, trace = far_from_origin(3001, 64, 11)
    with use_backend(backend):
        m2 = F.class_moments(x, y, 11)[2]
    assert abs(float(m2.double().sum()) - trace) <= 1e-6 * trace


@pytest.mark.parametrize("position", [0, 17, 31])
@pytest.mark.parametrize("n", [32, 1087])
def test_an_outlier_in_a_class(position, n):
    # The first block is measured from row 0: from an outlier, 31/32 of its squares cancel, and in
    # forty tries ten times the rounding is lost unless the block is visited again. (The reference
    # subtracts a mean rounded to float32, and is worse than either.)
    for seed in range(40):
        x = tiny_tokens(n, 29, 1, seed=seed)[0]
        x[position] += 1e4
        y = torch.zeros(n, dtype=torch.int64)
        exact = float(TestClassMoments.plain(torch.float64, x, y, 1)[2])
        with use_backend("cpu"):
            found = float(F.class_moments(x, y, 1)[2])
        assert abs(found - exact) <= 2 * torch.finfo(torch.float32).eps * exact


def test_an_outlier_that_leaves_hides_no_spread():
    # Half the rows far from the first: the spread is that of two clusters, kept to float32.
    x = torch.randn(64, 7, generator=torch.Generator().manual_seed(1))
    x[1:] += 1e4
    y = torch.zeros(64, dtype=torch.int64)
    truth = TestClassMoments.plain(torch.float64, x, y, 1)[2]
    with use_backend("cpu"):
        found = F.class_moments(x, y, 1)[2]
    assert abs(float(found) - float(truth)) <= 1e-6 * float(truth)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-40, 1e20, 3.3e38, -3.3e38])
@pytest.mark.parametrize("n", [2, 31, 33, 512, 1087])
def test_identical_rows_have_no_spread(value, n):
    x, y = torch.full((n, 9), value), torch.zeros(n, dtype=torch.int64)
    with use_backend("cpu"):
        _, means, m2 = F.class_moments(x, y, 1)
    assert m2.tolist() == [0.0]
    assert torch.equal(means[0], x[0])


def test_huge_values_neither_hang_nor_hide(backend):
    x = torch.tensor([[1e30, 0.0], [2e30, 0.0], [-1e30, 3.0]])
    with use_backend(backend):
        _, means, m2 = F.class_moments(x.repeat(31, 1), torch.zeros(93, dtype=torch.int64), 1)
    torch.testing.assert_close(means, torch.tensor([[2e30 / 3, 1.0]]))
    assert not m2.isfinite().any()  # it shows: Inf, or NaN where Inf less Inf was taken


@pytest.mark.parametrize("classes", [255, 256, 257])
def test_as_many_classes_as_a_digit_of_the_sort_holds(backend, classes):
    y = torch.arange(3 * classes) * 7 % classes
    y[::5] = -100
    x = torch.arange(3 * classes).float()[:, None] % 16
    with use_backend(backend):
        counts, means, _ = F.class_moments(x, y, classes)
    kept = y >= 0
    assert torch.equal(counts, torch.bincount(y[kept], minlength=classes))
    sums = torch.zeros(classes).index_add(0, y[kept], x[kept, 0])
    torch.testing.assert_close(means[:, 0], sums / counts.clamp(min=1))


@pytest.mark.parametrize("n", [16_900])
def test_a_class_of_more_segments_than_a_block_has_threads(backend, n):
    x = (torch.arange(n) % 2).float()[:, None]
    with use_backend(backend):
        counts, means, m2 = F.class_moments(x, torch.zeros(n, dtype=torch.int64), 1)
    assert (int(counts), float(means)) == (n, 0.5)
    assert abs(float(m2) - n / 4) <= 1e-6 * n
