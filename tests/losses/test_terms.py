"""Within-class and uniformity terms: gradients, values that fall, and never NaN."""

from __future__ import annotations

import math

import pytest
import torch

from ncfast.losses import (
    UniformityRegularizer,
    WithinClassRegularizer,
)
from ncfast.testing import tiny_tokens

V, D, N = 13, 5, 200
CLASSES = [3, 1, 8, 5, 12]
UNIFORMITY = ("log_distance", "log_distance_raw", "equiangular", "riesz")


def data(dtype: torch.dtype = torch.float64):
    x, y = tiny_tokens(N, D, V - 1, dtype)  # class 12 never occurs
    return x, y, tiny_tokens(V, D, 2, dtype, seed=1)[0]


TERMS = [
    *(WithinClassRegularizer(13, 5, CLASSES, kind=kind) for kind in ("trace", "quotient", "cdnv")),
    *(
        UniformityRegularizer(13, 5, CLASSES, of=of, kind=kind)
        for of in ("means", "head")
        for kind in UNIFORMITY
    ),
]


def named(term) -> str:
    return f"{type(term).__name__}-{term.kind}-{getattr(term, 'of', '')}"


@pytest.mark.parametrize("term", TERMS, ids=named)
def test_gradcheck(term):
    x, y, w = data()
    x, y = x[:40].clone(), y[:40]
    leaves = x.requires_grad_(), w.requires_grad_()
    used = leaves[1:] if getattr(term, "of", "") == "head" else leaves[:1]
    assert torch.autograd.gradcheck(lambda *_: term(x, y, w), used)


@pytest.mark.parametrize("term", TERMS, ids=named)
def test_lowers_itself_in_50_steps(term):
    x, y, w = data(torch.float32)
    leaves = [t.requires_grad_() for t in (x, w)]
    optimizer, values = torch.optim.Adam(leaves, lr=0.05), []
    for _ in range(51):
        optimizer.zero_grad()
        value = term(x, y, w)
        values.append(value.item())
        value.backward()
        optimizer.step()
    if term.kind == "log_distance":
        classes = int(term.last["classes"])  # at most D + 1: a simplex is the most uniform
        ideal = -0.5 * math.log(2 * classes / (classes - 1))
        assert values[0] > ideal + 0.03
        assert values[-1] == pytest.approx(ideal, abs=2e-3)
    else:
        assert values[-1] < values[0] - 0.2 * abs(values[0])


@pytest.mark.parametrize("term", TERMS, ids=named)
@pytest.mark.parametrize("case", ["no tokens", "no class", "one class", "equal"])
def test_never_nan(term, case):
    x, y, w = data(torch.float32)
    if case == "no tokens":
        x, y = x[:0], y[:0]
    elif case == "no class":
        y = torch.full_like(y, 2)
    elif case == "one class":
        y = torch.where(y == 3, 3, -100)
    else:
        x, w = torch.ones_like(x), torch.ones_like(w)
    leaves = x.requires_grad_(), w.requires_grad_()
    value = term(x, y, w)
    assert torch.isfinite(value)
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    assert all(g is None or torch.isfinite(g).all() for g in gradients)
