"""losses.linear_cross_entropy in 16 bits: autocast, GradScaler, and what is not finite."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as TF

import ncfast.functional as F
from ncfast import DataError, use_backend
from ncfast.losses import linear_cross_entropy
from ncfast.losses.row_sum import weighted_row_sum
from tests.losses.test_cross_entropy import D, N, V, problem


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_autocast_follows_torchs_linear_layer(autocast, given):
    x, w, b, target, _ = problem(torch.float32)
    x = x.detach().to(given).requires_grad_()
    found = []
    for ours in (True, False):
        with torch.autocast("cpu", autocast):
            if ours:
                loss = linear_cross_entropy(x, w, target, linear_bias=b)
            else:
                z = TF.linear(x, w, b)
                assert z.dtype == autocast
                loss = TF.cross_entropy(z.float(), target)
        assert loss.dtype == torch.float32
        found.append((loss, *torch.autograd.grad(loss, [x, w, b])))
    for a, e in zip(*found, strict=True):
        assert a.dtype == e.dtype
        assert (a - e).abs().max() <= 2 * torch.finfo(autocast).eps * e.abs().max()
    # The very inputs that a linear layer would see, and none of their gradients rounded more.
    cast = [t.to(autocast) for t in (x, w, b)]
    assert found[0][0] == linear_cross_entropy(*cast[:2], target, linear_bias=cast[2])
    with torch.autocast("cpu", autocast):
        wide = [t.double() for t in (x, w, b)]
        exact = linear_cross_entropy(*wide[:2], target, linear_bias=wide[2])
    assert exact.dtype == torch.float64  # as in torch, float64 is left as it is


def scaled_step(function) -> tuple[bool, float]:
    """Return whether a GradScaler skipped a step on infinite float16 features, and its scale."""
    _, w, _, target, _ = problem(torch.float32)
    x = torch.ones(N, D, dtype=torch.float16)
    x[1, 2] = math.inf
    layer = torch.nn.Parameter(torch.ones(D))
    before, head = w.detach().clone(), torch.nn.Parameter(w.detach().clone())
    optimizer = torch.optim.SGD([layer, head], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    scaler.scale(function(x * layer.half(), head, target)).backward()
    scaler.step(optimizer)
    scaler.update()
    return bool((head == before).all() and (layer == 1).all()), scaler.get_scale()


def check_that_a_step_is_skipped(backend: str) -> None:
    with use_backend(backend):
        for options in ({}, {"label_smoothing": 0.1}, {"weight": torch.ones(V)}):
            skipped, scale = scaled_step(
                lambda x, w, y, o=options: linear_cross_entropy(x, w, y, **o)
            )
            assert skipped
            assert scale == 1.0


def test_grad_scaler_skips_an_infinite_step(backend):
    check_that_a_step_is_skipped(backend)
    with use_backend(backend), pytest.raises(DataError, match=r"input\[1, 2\] is inf"):
        scaled_step(lambda x, w, y: linear_cross_entropy(x, w, y, check_finite=True))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_propagates_as_in_torch(backend, value):
    x, w, _, target, _ = problem(torch.float32)
    x = x.detach()
    x[1, 2] = value
    with use_backend(backend):
        nll, lse = F.linear_nll_lse(x, w, target, check_finite=False)
        with pytest.raises(DataError, match=r"x\[1, 2\]"):
            F.linear_nll_lse(x, w, target)
    assert not torch.isfinite(nll[1])
    assert not torch.isfinite(lse[1])
    assert torch.isnan(torch.stack([nll[1], lse[1]])).all() or not math.isnan(value)
    rest = torch.arange(N) != 1
    plain = TF.cross_entropy(x @ w.T, target, reduction="none")
    assert (nll - plain)[rest].abs().max() < 1e-5


def test_a_head_row_of_nan_propagates_as_in_torch(backend):
    x, w, _, target, _ = problem(torch.float32)
    w = w.detach().clone()
    w[3, 1] = math.nan  # one class of a tile whose others are finite
    with use_backend(backend):
        nll, lse = F.linear_nll_lse(x.detach(), w, target, check_finite=False)
    valid = target >= 0
    assert torch.isnan(nll[valid]).all()
    assert torch.isnan(lse[valid]).all()


def test_weighted_row_sum_is_exact_in_16_bits():
    rows = torch.randn(9000, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    rows.requires_grad_()
    weights = torch.rand(8500, generator=torch.Generator().manual_seed(1))
    found = weighted_row_sum(rows, weights)
    exact = weights.double() @ rows.detach()[:8500].double()
    scale = weights.double() @ rows.detach()[:8500].double().abs()
    assert ((found - exact).abs() <= 1e-6 * scale).all()
    (grad,) = torch.autograd.grad(found.sum(), rows)
    assert torch.equal(grad[:8500, 1], weights.bfloat16())
    assert not grad[8500:].any()
