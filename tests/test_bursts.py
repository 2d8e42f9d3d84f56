"""A burst of NaN or Inf: loud while it lasts, and gone from every running state after it."""

from __future__ import annotations

import math

import pytest
import torch

import ncfast
from ncfast import losses

V, D, CLASSES = 50, 8, [1, 2, 3, 5, 8, 13]
BURST = range(4, 7)
TERMS = ("NC3Regularizer", "WithinClassRegularizer", "UniformityRegularizer")


def batches(spoiled_by=None):
    """Yield numbered batches; one token of a chosen class is spoiled in those of the burst."""
    generator = torch.Generator().manual_seed(1)
    for number in range(10):
        x = torch.randn(64, D, generator=generator)
        y = torch.randint(0, V, (64,), generator=generator)
        y[3] = CLASSES[3]
        if spoiled_by is not None and number in BURST:
            x[3, 2] = spoiled_by
        yield number, x, y


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("means", ["batch", "ema", "running"])
@pytest.mark.parametrize("name", TERMS)
def test_a_term_says_nan_and_forgets_it(name, means, value):
    head = torch.randn(V, D, generator=torch.Generator().manual_seed(0))
    term, never = (getattr(losses, name)(V, D, CLASSES, means=means) for _ in range(2))
    for number, x, y in batches(value):
        found = term(x, y, head)
        assert bool(found.isfinite()) is (number not in BURST), number
        if number not in BURST:
            expected = never(x, y, head)
            if number < BURST[0] or means == "batch":
                assert torch.equal(found, expected)
    tensors = [t for t in term.state_dict().values() if isinstance(t, torch.Tensor)]
    assert tensors
    assert all(t.isfinite().all() for t in tensors)


def test_statistics_are_those_without_the_burst():
    stats, never = ncfast.ClassStatistics(V, D), ncfast.ClassStatistics(V, D)
    dropping, without = ncfast.ClassStatistics(V, D, nan="drop"), ncfast.ClassStatistics(V, D)
    for number, x, y in batches(math.nan):
        dropping.update(x, y)
        kept = x.isfinite().all(1)
        without.update(x[kept], y[kept])
        if number in BURST:
            before = [t.clone() for t in (stats.counts, stats.means, stats.m2)]
            with pytest.raises(ncfast.DataError, match=r"x\[3, 2\] is nan"):
                stats.update(x, y)
            after = (stats.counts, stats.means, stats.m2)
            assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
        else:
            stats.update(x, y)
            never.update(x, y)
    for one, other in ((stats, never), (dropping, without)):
        assert torch.equal(one.counts, other.counts)
        assert torch.equal(one.means, other.means)
        assert torch.equal(one.m2, other.m2)
