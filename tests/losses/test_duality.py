"""DualityRegularizer: the metric it is, its gradient, where it does not exist, the paper's code."""

from __future__ import annotations

import math

import pytest
import torch

import ncfast.functional as F
from ncfast import ClassStatistics, DataError, neural_collapse
from ncfast.losses import (
    DualityRegularizer,
    PairWeights,
    UniformityRegularizer,
    next_token_labels,
)
from ncfast.testing import tiny_tokens

V, D, N = 23, 7, 300


def data(dtype: torch.dtype = torch.float64, seed: int = 0):
    x, y = tiny_tokens(N, D, V - 3, dtype, seed)  # the last three classes never occur
    return x, y, tiny_tokens(V, D, 2, dtype, seed + 1)[0]


def golden():
    """Return the input of the golden table: V=7, D=8, N=60, classes 0, 3, 4 and 5 present."""
    i, d = torch.arange(60)[:, None], torch.arange(8)[None, :]
    y = (i[:, 0] ** 2 + 3 * i[:, 0]) % 7
    x = torch.sin(0.7 * (i + 1) * (d + 1).double()) + 0.5 * torch.cos(
        1.3 * (y[:, None] + 1) * (d + 1).double()
    )
    w = torch.cos(0.9 * (torch.arange(7)[:, None] + 1) * (d + 2).double())
    return x.float(), y, w.float()


@pytest.mark.parametrize("classes", [None, [19, 4, 7, 2, 22]])
@pytest.mark.parametrize(("spread", "key"), [("std", "unc3_std"), ("var", "unc3_var")])
@pytest.mark.parametrize("center", ["classes", "tokens", "none"])
def test_is_what_is_measured(classes, spread, key, center):
    x, y, w = data()
    term = DualityRegularizer(V, D, classes, spread=spread, center=center)
    stats = ClassStatistics(V, D, dtype=torch.float64)
    stats.update(x, y)
    report = neural_collapse(stats, w, classes=classes, center=center)
    assert term(x, y, w).item() == pytest.approx(report[key], rel=1e-12)
    assert term.last["mean_cosine"].item() == pytest.approx(report["nc3_mean"], rel=1e-12)
    assert term.last["classes"].item() == report["classes"]
    both = DualityRegularizer(V, D, classes, spread="none", alignment_weight=2.0, center=center)
    assert both(x, y, w).item() == pytest.approx(2 * (1 - report["nc3_mean"]), rel=1e-12)


def test_coefficient_of_variation():
    x, y, w = data()
    cosines = F.alignment(w[: V - 3], F.class_moments(x, y, V - 3)[1])
    term = DualityRegularizer(V, D, None, spread="cov")
    expected = cosines.std(correction=0) / cosines.mean().abs()
    assert term(x, y, w).item() == pytest.approx(expected.item(), rel=1e-12)


def test_gradient_is_the_papers():
    x, y, w = data()
    w.requires_grad_()
    term = DualityRegularizer(V, D, None, grad="head")
    value = term(x, y, w)
    found = torch.autograd.grad(value, w)[0]
    means = F.class_moments(x, y, V)[1][: V - 3]
    unit = torch.nn.functional.normalize(means - means.mean(0))
    rows = w.detach()[: V - 3]
    norms = rows.norm(dim=1, keepdim=True)
    s = (rows / norms * unit).sum(1, keepdim=True)
    spread = (s - s.mean()) / ((len(s) - 1) * value.detach())
    expected = spread * (unit - s * rows / norms) / norms
    assert (found[: V - 3] - expected).abs().max() <= 1e-13
    assert not found[V - 3 :].any()


def test_golden_values_of_the_official_term():
    x, y, w = golden()
    w.requires_grad_()
    term = DualityRegularizer(7, 8, None, preset="official")
    x.requires_grad_()
    value = term(x, y, w)
    assert value.item() == pytest.approx(0.410272, abs=1e-6)
    head, features = torch.autograd.grad(value, (w, x), allow_unused=True)
    norms = [0.155874, 0, 0, 0.088596, 0.100827, 0.182720, 0]
    assert head.norm(dim=1).tolist() == pytest.approx(norms, abs=1e-6)
    assert (head * w).sum(1).abs().max() <= 1e-7  # it turns rows and leaves their length
    assert features is None
    subset = DualityRegularizer(7, 8, [0, 3, 4])
    assert subset(x, y, w).item() == pytest.approx(0.212886, abs=1e-6)
    assert term.conventions.labels == "next"
    assert term.conventions.word_policy == "first"


def test_official_term_over_steps():
    """Against the paper's algorithm, written out: shift by one, sums since the start, eps."""
    ids, mask = torch.randint(0, V, (3, 4, 11)), torch.ones(3, 4, 11, dtype=torch.int64)
    mask[:, 1, 8:] = 0
    hidden = torch.randn(3, 4, 11, D, dtype=torch.float64)
    w, chosen, eps = torch.randn(V, D, dtype=torch.float64), [3, 5, 8, 9, 14], 1.19e-7
    term = DualityRegularizer(V, D, chosen, preset="official").double()
    totals, counts = torch.zeros(V, D, dtype=torch.float64), torch.zeros(V)
    for step in range(3):
        for b in range(4):
            for t in range(10):
                if mask[step, b, t + 1]:
                    totals[ids[step, b, t + 1]] += hidden[step, b, t]
                    counts[ids[step, b, t + 1]] += 1
        seen = [c for c in chosen if counts[c] > 0]
        means = totals[seen] / (counts[seen, None] + eps)
        means = means - means.mean(0)
        cosines = (means / (means.norm(dim=1, keepdim=True) + eps)) * w[seen]
        expected = (cosines.sum(1) / (w[seen].norm(dim=1) + eps)).std()
        labels = next_token_labels(ids[step], mask[step])
        assert term(hidden[step], labels, w).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("spread", ["std", "var", "cov", "none"])
@pytest.mark.parametrize("settings", [{}, {"means": "running", "through": "share"}])
def test_gradcheck(spread, settings):
    x, y, w = data()
    x, y = x[:40, :3].contiguous(), y[:40] % 5
    y[y < 0] = -100
    w, b = w[:6, :3].contiguous(), torch.randn(6, dtype=torch.float64)
    term = DualityRegularizer(
        6,
        3,
        [4, 0, 2, 3],
        spread=spread,
        alignment_weight=0.7,
        pairs=[(0, 2), (4, 3)],
        pair_weights=PairWeights(0.5, 0.2, 0.3),
        **settings,
    )
    term.double()(x + 1, y, w, b)  # something to run on from
    term.eval()
    leaves = [t.requires_grad_() for t in (x, w, b)]
    assert torch.autograd.gradcheck(lambda x, w, b: term(x, y, w, b), leaves)


@pytest.mark.parametrize(
    ("grad", "reaches"), [("both", (1, 1)), ("head", (0, 1)), ("features", (1, 0))]
)
def test_where_gradients_go(grad, reaches):
    x, y, w = data()
    leaves = x.requires_grad_(), w.requires_grad_()
    value = DualityRegularizer(V, D, None, grad=grad)(x, y, w)
    found = torch.autograd.grad(value, leaves, allow_unused=True)
    assert tuple(int(g is not None and bool(g.any())) for g in found) == reaches


@pytest.mark.parametrize("spread", ["std", "var", "cov", "none"])
@pytest.mark.parametrize(
    "case", ["no class", "one class", "no tokens", "equal cosines", "zero rows", "equal means"]
)
@pytest.mark.parametrize("means", ["batch", "running"])
def test_never_nan(spread, case, means):
    x, y, w = data(torch.float32)
    pairs = [(0, 1), (2, 3)]
    term = DualityRegularizer(
        V, D, range(6), spread=spread, alignment_weight=1.0, pairs=pairs, means=means
    )
    if case == "no class":
        y = torch.full_like(y, 9)
    elif case == "one class":
        y = torch.where(y == 3, 3, -100)
    elif case == "no tokens":
        x, y = x[:0], y[:0]
    elif case == "equal cosines":
        rows = F.class_moments(x, y, V)[1]
        w = rows - rows[:6].mean(0)
    elif case == "zero rows":
        w = torch.zeros_like(w)
    elif case == "equal means":
        x = torch.ones_like(x)
    leaves = x.requires_grad_(), w.clone().requires_grad_()
    for _ in range(2):
        value = term(leaves[0], y, leaves[1])
        gradients = torch.autograd.grad(value, leaves, allow_unused=True)
        assert torch.isfinite(value)
        assert all(g is None or torch.isfinite(g).all() for g in gradients)
    if case in ("no class", "one class", "no tokens"):
        assert term.last["spread"] == 0


def test_pairs():
    x, y, w = data()
    b = torch.randn(V, dtype=torch.float64)
    cosines = F.alignment(w[: V - 3], F.class_moments(x, y, V - 3)[1])
    pairs = torch.tensor([(0, 4), (5, 3), (7, 22)])  # the last pair's second word never occurs
    gaps = (cosines[[0, 5]] - cosines[[4, 3]]).square().mean()
    norms = w.norm(dim=1)[pairs].diff(dim=1).square().mean()
    biases = b[pairs].diff(dim=1).square().mean()
    expected = 2 * gaps + 3 * norms + 5 * biases
    term = DualityRegularizer(
        V, D, None, spread="none", pairs=pairs, pair_weights=PairWeights(2, 3, 5)
    )
    assert term(x, y, w, b).item() == pytest.approx(expected.item(), rel=1e-12)
    with pytest.raises(ValueError, match=r"pair_weights\.bias needs head_bias"):
        term(x, y, w)
    with pytest.raises(DataError, match="pairs names 4; expected ids of its classes"):
        DualityRegularizer(V, D, [0, 1], pairs=[(0, 4)])


@pytest.mark.parametrize("grad", ["both", "head", "features"])
def test_lowers_what_is_measured_in_50_steps(grad):
    x, y, w = data(torch.float32)
    leaves = [t.requires_grad_() for t in (x, w)]
    term = DualityRegularizer(V, D, range(12), grad=grad, alignment_weight=0.1)

    def measured() -> float:
        stats = ClassStatistics(V, D)
        stats.update(x.detach(), y)
        return neural_collapse(stats, w, classes=range(12))["unc3_std"]

    before, optimizer = measured(), torch.optim.Adam(leaves, lr=0.02)
    for _ in range(50):
        optimizer.zero_grad()
        term(x, y, w).backward()
        optimizer.step()
    assert measured() < 0.5 * before


def test_half_precision_and_autocast():
    x, y, w = data(torch.float32)
    term = DualityRegularizer(V, D)
    exact = term(x, y, w).item()
    for dtype in (torch.bfloat16, torch.float16):
        assert term(x.to(dtype), y, w.to(dtype)).item() == pytest.approx(exact, abs=0.01)
    with torch.autocast("cpu", torch.bfloat16):
        value = term(x.requires_grad_(), y, w)
        value.backward()
    assert value.dtype == torch.float32
    assert value.item() == exact


def test_compiled_equals_eager():
    x, y, w = data(torch.float32)
    results = []
    for wrap in (lambda f: f, lambda f: torch.compile(f, fullgraph=True, backend="aot_eager")):
        torch._dynamo.reset()
        term = DualityRegularizer(V, D, range(5, 15), means="running", pairs=[(5, 6)])
        call = wrap(term)
        leaves = x.clone().requires_grad_(), w.clone().requires_grad_()
        values = [call(leaves[0], y, leaves[1]) for _ in range(3)]
        sum(values).backward()
        results.append([*values, *(t.grad for t in leaves), term.last["spread"], term.calls])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"spread": "mad"}, "spread is 'mad'; expected one of"),
        ({"grad": "none"}, "grad is 'none'"),
        ({"center": "all"}, "center is 'all'"),
        ({"means": "queue"}, "means is 'queue'"),
        ({"through": "no"}, "through is 'no'"),
        ({"weight": -0.1}, "peak is -0.1; expected 0 or more"),
        ({"weight": math.nan}, "peak is nan"),
        ({"alignment_weight": -1.0}, "alignment_weight is -1.0"),
        ({"min_count": 0}, "min_count is 0; expected at least 1"),
        ({"half_life": 0}, "half_life is 0"),
        ({"preset": "theirs"}, "preset is 'theirs'"),
        ({"pairs": [1, 2]}, r"pairs is \(2,\); expected \[P, 2\]"),
        ({"pair_weights": PairWeights(), "classes": [V]}, f"classes holds ids from {V}"),
        ({"classes": []}, "classes is empty"),
        ({"classes": [1, 2, 1]}, "expected each once"),
    ],
)
def test_refuses_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        DualityRegularizer(**{"classes": None, "num_classes": V, "dim": D, **settings})


def test_refuses_batches():
    x, y, w = data()
    term = DualityRegularizer(V, D, [1, 2])
    with pytest.raises(ValueError, match=r"head_weight is .*\(23, 6\) .* float \[23, 7\]"):
        term(x, y, w[:, :6])
    with pytest.raises(ValueError, match=r"x is \(300, 7\) and y is \(299,\)"):
        term(x, y[1:], w)
    y[5] = V
    with pytest.raises(DataError, match=rf"y\[5\] is {V}"):
        term(x, y, w)

    class Sharded(torch.Tensor):
        device_mesh = None

    other = UniformityRegularizer(V, D, [1, 2], of="head")  # its pairs would cross the ranks
    with pytest.raises(ValueError, match="head_weight is a sharded Sharded"):
        other(x, y, w.as_subclass(Sharded))
