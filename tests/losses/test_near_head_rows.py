"""Head rows that differ by no more than their rounding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ncfast import ClassStatistics, neural_collapse
from ncfast.losses import UniformityRegularizer
from ncfast.metrics import bootstrap_intervals
from tests.losses.near import DTYPES, KINDS, D, V, agree, by_loops, moments, twins

CALIBRATED = ("nc1w_mean", "nc1w2_mean", "gnc2w_mean", "gnc2w_unit_mean")


def rows(dtype: torch.dtype, offset: float, far: float = 0.0) -> Tensor:
    """Return a head whose last row is the first one, but for one step of its dtype, or for far."""
    g = torch.Generator().manual_seed(0)
    head = (torch.randn(V, D, generator=g) + offset).to(dtype)
    head[8] = head[0]
    step = head[8, 3].abs() * torch.finfo(dtype).eps
    head[8, 3] += far * head[8].double().norm().to(dtype) if far else step
    assert head[8, 3] != head[0, 3]
    return head


HEADS = [(dtype, offset) for dtype in DTYPES for offset in (0.0, 30.0)]

HEADS = [(dtype, offset) for dtype, offset in HEADS if dtype != torch.bfloat16 or not offset]


@pytest.mark.parametrize(("dtype", "offset"), HEADS)
@pytest.mark.parametrize("kind", KINDS[2:])
def test_head_rows_that_rounding_explains_make_no_pair(kind, dtype, offset):
    head = rows(dtype, offset)
    leaf, exact = head.clone().requires_grad_(), head.double().requires_grad_()
    term = UniformityRegularizer(V, D, of="head", kind=kind)
    found = term(None, None, leaf)
    assert term.last["pairs"] == V * (V - 1) / 2 - 1
    expected = by_loops(kind, exact, exact[:, 0], without={(0, 8)})
    coarse = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 8e-3}[dtype]
    agree(found, leaf, expected, exact, coarse * (1 + offset))


@pytest.mark.parametrize(("dtype", "offset"), HEADS)
def test_calibrated_metrics_leave_such_rows_out(dtype, offset):
    x, y = twins(torch.float32, 1.0)
    stats = ClassStatistics(V, D)
    stats.update(x, y)
    head = rows(dtype, offset)
    same = head.clone()
    same[8] = same[0]
    found, expected = (neural_collapse(stats, w) for w in (head, same))
    ends, bounds = (bootstrap_intervals(stats, w, repeats=20) for w in (head, same))
    variances = moments(x.double(), y)[1]
    for key in CALIBRATED:
        assert found[key] == pytest.approx(expected[key], rel=8e-3 if dtype == DTYPES[2] else 1e-5)
        note = "1 coincident pairs are left out (1 differ by no more than their rounding)"
        assert note in found.notes[key]
        assert ends[key] == pytest.approx(bounds[key], rel=8e-3)
    value = by_loops("cdnv1", head.double(), variances, without={(0, 8)})
    assert found["nc1w_mean"] == pytest.approx(float(value), rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_further_apart_than_rounding_count_and_are_said_to_decide(dtype):
    x, y = twins(torch.float32, 1.0)
    stats = ClassStatistics(V, D)
    stats.update(x, y)
    # Two rows known to eps / 2 of their length each may be equal up to eps apart.
    head = rows(dtype, 0.0, far=4 * torch.finfo(dtype).eps)
    found = neural_collapse(stats, head)
    value = by_loops("cdnv1", head.double(), moments(x.double(), y)[1], without=set())
    assert found["nc1w_mean"] == pytest.approx(float(value), rel=1e-4)
    assert "the nearest head rows that count are" in found.notes["nc1w_mean"]
    term = UniformityRegularizer(V, D, of="head", kind="log_distance_raw")
    term(None, None, head)
    assert term.last["pairs"] == V * (V - 1) / 2
