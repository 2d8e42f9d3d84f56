"""Within-class and uniformity terms, and cross-entropy over the tokens that count."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

import ncfast.functional as F
from ncfast import ClassStatistics, neural_collapse
from ncfast.losses import (
    UniformityRegularizer,
    WithinClassRegularizer,
    cross_entropy_sums,
    linear_cross_entropy,
)
from ncfast.testing import tiny_tokens

V, D, N = 13, 5, 200
CLASSES = [3, 1, 8, 5, 12]
UNIFORMITY = ("log_distance", "log_distance_raw", "equiangular", "riesz")


def data(dtype: torch.dtype = torch.float64):
    x, y = tiny_tokens(N, D, V - 1, dtype)  # class 12 never occurs
    return x, y, tiny_tokens(V, D, 2, dtype, seed=1)[0]


@pytest.mark.parametrize("classes", [None, CLASSES])
@pytest.mark.parametrize(("kind", "key"), [("trace", "trace_within"), ("quotient", "nc1_quotient")])
def test_within_is_what_is_measured(classes, kind, key):
    x, y, w = data()
    stats = ClassStatistics(V, D, dtype=torch.float64)
    stats.update(x, y)
    report = neural_collapse(stats, w, classes=classes)
    found = WithinClassRegularizer(V, D, classes, kind=kind)(x, y)
    assert found.item() == pytest.approx(report[key], rel=1e-12)


def test_within_of_rare_classes_left_out():
    """Their tokens are not divided by either."""
    x, y, _ = data()
    counts, _, m2 = F.class_moments(x, y, V)
    least = int(counts.sort().values[-4])
    kept = counts >= least
    assert int(counts[~kept].sum()) > 0
    found = WithinClassRegularizer(V, D, min_count=least)(x, y)
    expected = m2[kept].sum() / counts[kept].sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize("power", [1, 2])
def test_cdnv_by_its_definition(power):
    x, y, _ = data()
    counts, means, m2 = F.class_moments(x, y, V)
    present = [c for c in CLASSES if counts[c]]
    values = []
    for i, a in enumerate(present):
        for b in present[i + 1 :]:
            distance = (means[a] - means[b]).square().sum() ** power
            values.append((m2[a] / counts[a] + m2[b] / counts[b]) / (2 * distance))
    found = WithinClassRegularizer(V, D, CLASSES, kind="cdnv", power=power)(x, y)
    assert found.item() == pytest.approx(torch.stack(values).mean().item(), rel=1e-10)


def test_within_of_running_means_pulls_towards_them():
    x, y, _ = data()
    term = WithinClassRegularizer(V, D, None, means="running").double()
    term(x[:100], y[:100])
    found = term(x[100:], y[100:])
    means = F.class_moments(x, y, V)[1]
    kept = y[100:] >= 0
    expected = (x[100:][kept] - means[y[100:][kept]]).square().sum(1).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("of", ["means", "head"])
@pytest.mark.parametrize("kind", UNIFORMITY)
def test_uniformity_by_its_definition(of, kind):
    x, y, w = data()
    points = F.class_moments(x, y, V)[1][:-1] if of == "means" else w
    if kind != "log_distance_raw":
        points = torch.nn.functional.normalize(points - points.mean(0))
    values = []
    for a in range(len(points)):
        for b in range(a + 1, len(points)):
            if kind == "equiangular":
                values.append((points[a] @ points[b] + 1 / (len(points) - 1)) ** 2)
            else:
                values.append(-(points[a] - points[b]).norm().log())
    expected = torch.stack(values).mean().item()
    if kind == "riesz":  # the logarithm of the mean of d^-(D - 2)
        expected = ((D - 2) * torch.stack(values)).exp().mean().log().item()
    term = UniformityRegularizer(V, D, None, of=of, kind=kind)
    found = term(*((x, y) if of == "means" else (None, None)), w)
    assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert term.last["pairs"] == len(values)


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


def test_cross_entropy_is_a_mean_over_what_counts():
    x, y, w = data()
    b = torch.randn(V, dtype=torch.float64)
    z = x @ w.T + b
    loss = linear_cross_entropy(x.view(4, 50, D), w, y.view(4, 50), linear_bias=b, z_loss=0.1)
    expected = cross_entropy(z, y) + 0.1 * z.logsumexp(1)[y >= 0].square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    sums = cross_entropy_sums(x, w, y, linear_bias=b, with_z=True)
    assert sums.tokens == (y >= 0).sum()
    assert ((sums.nll + 0.1 * sums.z) / sums.tokens).item() == pytest.approx(loss.item())
    assert linear_cross_entropy(x, w, torch.full_like(y, -100)).item() == 0
    with pytest.raises(ValueError, match="z_loss is -1"):
        linear_cross_entropy(x, w, y, z_loss=-1)


def test_cross_entropy_of_micro_batches_adds_up():
    x, y, w = data()
    count, w = (y >= 0).sum(), w.requires_grad_()
    whole = linear_cross_entropy(x, w, y)
    parts = [
        linear_cross_entropy(a, w, b, num_tokens=count)
        for a, b in zip(x.chunk(3), y.chunk(3), strict=True)
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-12)
    one, many = (torch.autograd.grad(loss, w)[0] for loss in (whole, sum(parts)))
    assert (one - many).abs().max() <= 1e-14
