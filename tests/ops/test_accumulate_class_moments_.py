"""accumulate_class_moments_: Chan's merge, what a refusal leaves untouched, and its digits."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

import ncfast.functional as F
from ncfast import DataError, use_backend
from ncfast.testing import tiny_tokens

from .backends import in_float64, said
from .contract import OpContract

State = tuple[Tensor, Tensor, Tensor, Tensor]


def empty(classes: int, width: int, dtype: torch.dtype = torch.float32) -> State:
    """Return the moments of no tokens."""
    return (
        torch.zeros(classes, dtype=torch.int64),
        torch.zeros(classes, width, dtype=dtype),
        torch.zeros(classes, dtype=torch.float64),
        torch.zeros(width, width, dtype=torch.float64),
    )


def by_loops(x: list[list[int]], y: list[int], classes: int):
    """Return counts, means, spreads and the pooled scatter from the definitions, as fractions."""
    width = len(x[0])
    own = [[row for row, label in zip(x, y, strict=True) if label == c] for c in range(classes)]
    means = [
        [Fraction(sum(r[d] for r in rows), max(len(rows), 1)) for d in range(width)] for rows in own
    ]
    spreads = [Fraction(0)] * classes
    scatter = [[Fraction(0)] * width for _ in range(width)]
    for c, rows in enumerate(own):
        for row in rows:
            gap = [row[d] - means[c][d] for d in range(width)]
            spreads[c] += sum(g * g for g in gap)
            for a in range(width):
                for b in range(width):
                    scatter[a][b] += gap[a] * gap[b]
    return [len(rows) for rows in own], means, spreads, scatter


class TestAccumulateClassMoments(OpContract):
    """The contract of every op."""

    op = "accumulate_class_moments_"
    outputs = ("counts", "means", "m2", "scatter")
    deciding = (1,)
    updated = 4

    @staticmethod
    def plain(
        dtype: torch.dtype,
        counts: Tensor,
        means: Tensor,
        m2: Tensor,
        scatter: Tensor | None,
        x: Tensor,
        y: Tensor,
    ) -> tuple[Tensor, ...]:
        kept = y != -100
        x, y, means = x[kept].to(dtype), y[kept], means.to(dtype)
        added = torch.bincount(y, minlength=len(counts))
        sums = torch.zeros_like(means).index_add_(0, y, x)
        batch = sums / added.clamp(min=1)[:, None]
        residuals = x - batch[y]
        spread = x.new_zeros(len(counts)).index_add_(0, y, residuals.square().sum(1))
        total = (counts + added).clamp(min=1).to(dtype)
        gap = (batch - means) * (added > 0)[:, None]
        share = (counts * added).to(dtype) / total
        results = [
            counts + added,
            means + gap * (added.to(dtype) / total)[:, None],
            m2 + (spread + share * gap.square().sum(1)).double(),
        ]
        if scatter is not None:
            weighted = gap * share.sqrt()[:, None]
            grams = [(r.T @ r).double() for r in (residuals, weighted)]
            results.append(scatter + grams[0] + grams[1])
        return tuple(results)

    @staticmethod
    def sized(n: int) -> tuple[Tensor | None, ...]:
        return *empty(7, 13)[:3], None, *tiny_tokens(n, 13, 7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cuts", [[9], [4, 9], [1, 2, 3, 6, 8, 9], [0, 5, 5, 9]])
def test_definition_on_integers_in_any_batches(backend, dtype, cuts):
    # Class 0 grows 1, 2 and class 2 to 4 tokens through halves and thirds; the end is whole.
    x = [[8, -2], [2, 4], [0, 6], [90, 90], [-4, 0], [14, 2], [6, 2], [3, 4], [-1, 8]]
    y = [2, 0, 2, -100, 2, 2, -100, 3, 0]
    counts, means, spreads, scatter = by_loops(x, y, 5)
    state = empty(5, 2, torch.float64 if dtype == torch.float64 else torch.float32)
    with use_backend(backend):
        for begin, end in zip([0, *cuts], cuts, strict=False):
            features = torch.tensor(x[begin:end], dtype=dtype).reshape(-1, 2)
            labels = torch.tensor(y[begin:end], dtype=torch.int64)
            F.accumulate_class_moments_(*state, features, labels)
    assert state[0].tolist() == counts
    eps = torch.finfo(state[1].dtype).eps
    for found, exact in zip(state[1:], (means, spreads, scatter), strict=True):
        exact = torch.tensor(exact, dtype=torch.float64)
        # One batch is exact; a merge divides, and each division may round.
        rounding = 0 if len(cuts) == 1 else 4 * eps * exact.abs().max()
        assert (found.double() - exact).abs().max() <= rounding


@in_float64
def test_split_and_merge_in_any_order_is_one_pass(backend):
    x, y = tiny_tokens(499, 13, 7, torch.float64)
    order = torch.randperm(499)
    with use_backend(backend):
        counts, means, m2 = F.class_moments(x, y, 7)
        scatter = F.within_class_scatter(x, y, means)
        state = empty(7, 13, torch.float64)
        for part in order.split(37):
            F.accumulate_class_moments_(*state, x[part], y[part])
    assert torch.equal(state[0], counts)
    for found, exact in zip(state[1:], (means, m2, scatter), strict=True):
        assert (found - exact).abs().max() <= 1e-13 * exact.abs().max()


def test_classes_absent_from_the_batch_are_not_touched(backend):
    x, y = tiny_tokens(61, 13, 7)
    y[y == 3] = -100
    state = empty(7, 13)
    state[1][3], state[2][3], state[0][3] = math.nan, math.nan, 5
    with use_backend(backend):
        F.accumulate_class_moments_(*state, x, y)
    assert state[0][3] == 5
    assert state[1][3].isnan().all()
    assert state[2][3].isnan()
    assert not state[1][[0, 1, 2, 4, 5, 6]].isnan().any()
    assert not state[3].isnan().any()


@pytest.mark.parametrize("with_scatter", [False, True])
@pytest.mark.parametrize("n", [61, 7001])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: y[-1].fill_(7), r"y\[\d+\] is 7; expected a class in \[0, 7\) or -100"),
        (lambda x, y: y[3].fill_(-1), r"y\[3\] is -1"),
        (lambda x, y: x[5, 2].fill_(math.nan), r"x\[5, 2\] is nan; expected finite"),
        (lambda x, y: x[-1, -1].fill_(math.inf), r"x\[\d+, 12\] is inf"),
        (lambda x, y: x[7:, 0].fill_(-math.inf), r"x\[7, 0\] is -inf"),
    ],
)
def test_a_refusal_changes_no_bit(backend, n, with_scatter, change, message):
    state = empty(7, 13)
    with use_backend(backend):
        F.accumulate_class_moments_(*state, *tiny_tokens(61, 13, 7, seed=2))
        before = [s.clone() for s in state]
        x, y = tiny_tokens(n, 13, 7)
        y[-1] = 4
        change(x, y)
        arguments = state if with_scatter else (*state[:3], None)
        with pytest.raises(DataError, match=f"accumulate_class_moments_: {said(backend, message)}"):
            F.accumulate_class_moments_(*arguments, x, y)
    for now, then in zip(state, before, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("lone", [True, False])
def test_a_bad_feature_in_a_class_of_any_size_is_refused(backend, lone):
    # A class of one token has no spread to show a NaN.
    x, y = tiny_tokens(61, 13, 7)
    y[y == 3] = 2
    y[17] = 3 if lone else 2
    x[17, 12] = math.nan
    state = empty(7, 13)
    with use_backend(backend), pytest.raises(DataError, match=said(backend, r"x\[17, 12\] is nan")):
        F.accumulate_class_moments_(*state[:3], None, x, y)
    assert not any(s.any() for s in state)


@pytest.mark.parametrize(
    ("position", "value", "error", "message"),
    [
        (0, torch.zeros(2), TypeError, "counts is torch.float32"),
        (0, torch.zeros(3).long(), ValueError, r"counts is .*\(3,\)"),
        (1, torch.zeros(2, 4), ValueError, r"means is .*\(2, 4\)"),
        (1, torch.zeros(2, 3).half(), TypeError, "means is torch.float16"),
        (1, torch.zeros(2, 3, device="meta"), ValueError, "means is .* meta"),
        (2, torch.zeros(2), TypeError, "m2 is torch.float32"),
        (2, torch.zeros(3).double(), ValueError, r"m2 is .*\(3,\)"),
        (3, torch.zeros(3, 2).double(), ValueError, r"scatter is .*\(3, 2\)"),
        (3, torch.zeros(3, 3), TypeError, "scatter is torch.float32"),
        (4, torch.zeros(5, 3).double(), TypeError, "means is torch.float32"),
        (4, torch.zeros(3), ValueError, r"x is .*\(3,\)"),
        (5, torch.zeros(5), TypeError, "y is torch.float32"),
        (5, torch.zeros(4).long(), ValueError, r"y is .*\(4,\)"),
    ],
)
def test_refuses_shapes_dtypes_and_devices(position, value, error, message):
    arguments = [*empty(2, 3), torch.zeros(5, 3), torch.zeros(5, dtype=torch.int64)]
    arguments[position] = value
    with pytest.raises(error, match=f"accumulate_class_moments_: {message}"):
        F.accumulate_class_moments_(*arguments)


def test_takes_features_that_require_gradients(backend):
    x, y = tiny_tokens(61, 13, 7)
    states = empty(7, 13), empty(7, 13)
    with use_backend(backend):
        F.accumulate_class_moments_(*states[0], x, y)
        F.accumulate_class_moments_(*states[1], x.requires_grad_(), y)
    for a, b in zip(*states, strict=True):
        assert torch.equal(a, b)
        assert not b.requires_grad


@pytest.mark.parametrize("batch", [37, 601])
def test_trace_far_from_the_origin_over_many_batches(backend, batch):
    generator = torch.Generator().manual_seed(5)
    centres = torch.randn(11, 64, generator=generator)
    centres *= 1000 / centres.norm(dim=1, keepdim=True)
    y = torch.randint(0, 11, (3001,), generator=generator)
    x = centres[y] + torch.randn(3001, 64, generator=generator)
    state = empty(11, 64)
    with use_backend(backend):
        for rows, labels in zip(x.split(batch), y.split(batch), strict=True):
            F.accumulate_class_moments_(*state, rows, labels)
    _, _, m2, scatter = TestAccumulateClassMoments.plain(
        torch.float64, *empty(11, 64, torch.float64), x, y
    )
    trace = float(m2.sum())
    assert abs(float(state[2].sum()) - trace) <= 1e-6 * trace
    assert abs(float(state[3].trace()) - float(scatter.trace())) <= 1e-6 * trace


def test_values_near_the_largest_float_do_not_hang(backend):
    x = torch.full((613, 5), 3e38)
    x[::2] *= -1
    state = empty(1, 5)
    with use_backend(backend):
        F.accumulate_class_moments_(*state[:3], None, x, torch.zeros(613, dtype=torch.int64))
    assert state[0].tolist() == [613]
    assert not state[2].isfinite().any()  # it shows


def test_slices_begin_at_their_own_labels(backend):
    """The emulator's build of small sizes merges 78 of these tokens at a time."""
    x, y = tiny_tokens(300, 13, 199)
    y = torch.stack([y, torch.full_like(y, -1)], 1)[:, 0]  # every second of what lies in memory
    state = empty(199, 13)
    with use_backend(backend):
        F.accumulate_class_moments_(*state, x, y)
    exact = TestAccumulateClassMoments.plain(torch.float64, *empty(199, 13, torch.float64), x, y)
    assert torch.equal(state[0], exact[0])
    for found, value in zip(state[1:], exact[1:], strict=True):
        assert (found.double() - value).abs().max() <= 1e-6 * value.abs().max()


def test_more_classes_than_one_slice_keeps():
    """The C++ kernel keeps 48 MiB of batch means: what has more is merged slice by slice."""
    width = 128
    count = (48 << 20) // (4 * width) + 6
    y = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    x = torch.arange(count, dtype=torch.float32)[:, None].expand(count, width)
    state = (
        torch.zeros(count, dtype=torch.int64),
        torch.zeros(count, width),
        torch.zeros(count, dtype=torch.float64),
        torch.zeros(width, width, dtype=torch.float64),
    )
    with use_backend("cpu"):
        F.accumulate_class_moments_(*state, x, y)
    assert bool((state[0] == 1).all())
    assert torch.equal(state[1][y], x)
    assert not state[3].any()


def test_more_long_classes_than_are_kept():
    """One more than the C++ kernel has room for the means of: its segments are added up again."""
    width, long = 512, 513  # a class of so many tokens has two segments
    count = (48 << 20) // (8 * width) + 1
    x = torch.arange(width, dtype=torch.float64)[None].expand(count * long, width)
    state = empty(count, width, torch.float64)
    with use_backend("cpu"):
        F.accumulate_class_moments_(*state[:3], None, x, torch.arange(count).repeat(long))
    assert bool((state[0] == long).all())
    assert torch.equal(state[1], x[:count])
    assert not state[2].any()
