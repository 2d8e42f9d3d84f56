"""A step of features that are not finite is to be skipped: all gradients of a term are NaN."""

from __future__ import annotations

import math

import pytest
import torch

import ncfast
from ncfast.losses import DualityRegularizer, UniformityRegularizer, WithinClassRegularizer
from tests.losses.test_arguments import D, V, data


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("means", ["batch", "ema"])
@pytest.mark.parametrize(
    "make",
    [
        lambda **kept: DualityRegularizer(V, D, [0, 2], pairs=[[0, 2]], **kept),
        lambda **kept: DualityRegularizer(V, D, spread="none", alignment_weight=1.0, **kept),
        *(
            lambda kind=kind, **kept: WithinClassRegularizer(V, D, kind=kind, **kept)
            for kind in ("trace", "quotient", "cdnv")
        ),
        *(
            lambda kind=kind, **kept: UniformityRegularizer(V, D, kind=kind, **kept)
            for kind in ("log_distance", "equiangular", "riesz")
        ),
    ],
)
@pytest.mark.parametrize("read", [True, False])
def test_where_nothing_is_finite_gradients_are_nan(make, means, backend, read, monkeypatch):
    """No token is left, and a gradient of 0 would let a GradScaler take the step."""
    if not read:  # as on a GPU
        monkeypatch.setattr("ncfast.losses.nan_gradient._at_hand", lambda finite: False)
    x, y, w = data()
    term = make(means=means)
    with ncfast.use_backend(backend):
        assert term(x, y, w).isfinite()
        for bad in (torch.full_like(x, math.inf), torch.where(y[:, None] == 0, math.nan, x)):
            leaves = bad.requires_grad_(), w.clone().requires_grad_()
            value = term(leaves[0], y, leaves[1])
            assert math.isnan(value.detach())
            of = leaves if isinstance(term, DualityRegularizer) else leaves[:1]
            features, *head = torch.autograd.grad(value, of)
            assert features.isnan().all()
            assert all(grad[term.class_means.ids].isnan().all() for grad in head)
        assert term(x, y, w).isfinite()
