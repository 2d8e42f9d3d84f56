"""Terms of class means that differ by no more than their rounding.

Each is compared with its definition by loops in float64, without the pairs that rounding explains.
"""

from __future__ import annotations

import pytest
import torch

import ncfast.functional as F
from ncfast import ClassStatistics, neural_collapse, use_backend
from ncfast.losses import DualityRegularizer, UniformityRegularizer, WithinClassRegularizer
from ncfast.losses.known_means import errors_of_head, pair_sums
from tests.losses.near import DTYPES, KINDS, D, V, agree, by_loops, moments, term_of, twins

from ..ops.backends import EVERY


@pytest.fixture(params=EVERY)
def backend(request) -> str:
    """Name a backend; the kernels of GPUs are among them."""
    if request.param == "cuda-host":
        request.getfixturevalue("cuda_host")
    return request.param


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_means_that_rounding_explains_make_no_pair(kind, dtype):
    seen = 0
    for offset, seed in ((0.0, 0), (1.0, 1), (30.0, 2), (300.0, 3)):
        x, y = twins(dtype, offset, seed)
        leaf, exact = x.clone().requires_grad_(), x.double().requires_grad_()
        term = term_of(kind)
        found = term(leaf, y)
        assert term.last["pairs"] == V * (V - 1) / 2 - 1
        expected = by_loops(kind, *moments(exact, y), without={(0, 8)})
        coarse = {torch.float32: 2e-5, torch.float64: 1e-9, torch.bfloat16: 8e-3}[dtype]
        agree(found, leaf, expected, exact, coarse * (1 + offset))
        means = moments(x if dtype == torch.float64 else x.float(), y)[0]
        seen += bool((means[0] != means[8]).any())
    assert seen, "no twin differs from its model: the test shows nothing"


def test_on_every_backend(backend):
    x, y = twins(torch.float32, 1.0, 1)
    exact = x.double().requires_grad_()
    for kind in KINDS:
        leaf = x.clone().requires_grad_()
        with use_backend(backend):
            found = term_of(kind)(leaf, y)
            expected = by_loops(kind, *moments(exact, y), without={(0, 8)})
            agree(found, leaf, expected, exact, 1e-4)


@pytest.mark.parametrize("means", ["running", "ema"])
def test_means_that_are_kept(means):
    """Both classes see the same tokens, in another order and in other calls."""
    x, y = twins(torch.float32, 30.0)
    others = y % 8 != 0
    mine = x[y == 0].clone()
    term = WithinClassRegularizer(V, D, kind="cdnv", means=means, half_life=5)
    g, differed = torch.Generator().manual_seed(0), 0
    for step in range(40):
        shuffled = mine[torch.randperm(10, generator=g)]
        batch = torch.cat([x[others], mine, shuffled]).requires_grad_()
        labels = torch.cat([y[others], torch.full((10,), 0), torch.full((10,), 8)])
        value = term(batch, labels)
        (grad,) = torch.autograd.grad(value, batch)
        assert term.last["pairs"] == V * (V - 1) / 2 - 1, step
        assert grad.abs().max() < 1
        differed += bool((term.class_means.means[0] != term.class_means.means[8]).any())
    assert differed > 10


def test_means_of_many_calls():
    """Each call rounds once more: two classes that saw the same 900 tokens, each its own way."""
    g, apart = torch.Generator().manual_seed(0), []
    x = torch.randn(900, D, generator=g) + 300
    term = UniformityRegularizer(2, D, kind="log_distance_raw", means="running")
    for i, j in enumerate(torch.randperm(900, generator=g).tolist()):
        term(x[[i, j]], torch.tensor([0, 1]))
        apart.append(int(term.last["pairs"]))
    assert sum(apart) > 800  # until the last few calls they did not see the same
    assert apart[-1] == 0
    gap = (term.class_means.means[0] - term.class_means.means[1]).norm()
    assert gap > 4 * 2**-24 * x.norm(dim=1).mean()


@pytest.mark.parametrize("kind", ["quotient", "equiangular", "std"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_set_of_which_all_means_are_equal_teaches_nothing(kind, dtype):
    x, y = twins(dtype, 1.0, 1)
    head = torch.randn(V, D, dtype=torch.float64).to(dtype)
    leaves = x.requires_grad_(), head.requires_grad_()
    if kind == "std":
        term = DualityRegularizer(V, D, [0, 8], alignment_weight=1.0)
    else:
        name = WithinClassRegularizer if kind == "quotient" else UniformityRegularizer
        term = name(V, D, [0, 8], kind=kind)
    value = term(leaves[0], y, leaves[1])
    # A cosine without a direction is 0; two of a simplex of two would be -1.
    assert float(value.detach()) == {"quotient": 0.0, "equiangular": 1.0, "std": 1.0}[kind]
    for grad in torch.autograd.grad(value, leaves, allow_unused=True):
        assert grad is None or not grad.any()


@pytest.mark.parametrize("center", ["classes", "tokens", "none"])
def test_a_mean_at_the_center_has_cosine_0_as_it_is_measured(center):
    g = torch.Generator().manual_seed(3)
    x = torch.randn(60, D, generator=g) + (0 if center == "none" else 5)
    if center == "none":
        x = torch.cat([x, 3 * torch.ones(1, D), -torch.ones(3, D)])
        y = torch.cat([torch.arange(60) % 6, torch.full((4,), 6)])
    else:
        x = torch.cat([x, x[torch.randperm(60, generator=g)]])
        y = torch.cat([torch.arange(60) % 6, torch.full((60,), 6)])
    head = torch.randn(7, D, generator=g)
    stats = ClassStatistics(7, D)
    stats.update(x, y)
    report = neural_collapse(stats, head, center=center)
    leaf = x.requires_grad_()
    term = DualityRegularizer(7, D, center=center)
    value = term(leaf, y, head)
    (grad,) = torch.autograd.grad(value, leaf)
    assert report["means_at_center"] == 1
    assert float(value.detach()) == pytest.approx(report["unc3_std"], rel=1e-5)
    assert float(term.last["mean_cosine"]) == pytest.approx(report["nc3_mean"], rel=1e-4)
    assert grad.abs().max() < 1


@pytest.mark.parametrize("center", ["classes", "tokens"])
def test_a_center_is_known_up_to_the_errors_of_its_means(center):
    """Six large means add up to nothing but rounding; a seventh is exactly there."""
    g = torch.Generator().manual_seed(0)
    half = 1000 * torch.randn(3, 20, D, generator=g)
    other = -half[:, torch.randperm(20, generator=g)]
    x = torch.cat([half.flatten(0, 1), other.flatten(0, 1), torch.zeros(20, D)])
    y = torch.arange(7).repeat_interleave(20)
    head = torch.randn(7, D, generator=g)
    stats = ClassStatistics(7, D)
    stats.update(x, y)
    report = neural_collapse(stats, head, center=center)
    assert report["means_at_center"] == 1
    assert 0 < report.per_class["norms"][6] < 1
    leaf = x.requires_grad_()
    term = DualityRegularizer(7, D, center=center)
    value = term(leaf, y, head)
    (grad,) = torch.autograd.grad(value, leaf)
    assert float(value.detach()) == pytest.approx(report["unc3_std"], rel=1e-5)
    assert grad.abs().max() < 1e-4  # through the center alone
    if center == "classes":
        term = UniformityRegularizer(7, D)
        assert float(term(leaf, y).detach()) == pytest.approx(report["log_distance_mean"], rel=1e-5)
        assert term.last["pairs"] == 15


def test_where_nothing_is_near_the_fused_op_says_it_all(monkeypatch):
    """Its bits, values and gradients, and nothing is looked for."""
    calls = []
    monkeypatch.setattr("ncfast.losses.known_means.touching_points", lambda *a: calls.append(a))
    x, y = twins(torch.float32, 0.0)
    x, y = x[y < 8], y[y < 8]
    for kind in KINDS:
        term_of(kind)(x, y)
    head = torch.randn(V, D, generator=torch.Generator().manual_seed(0))
    errors, variances = errors_of_head(head, torch.ones(())), torch.rand(V)
    for kind in (*KINDS, "cosine"):
        name, power = (kind[:4], int(kind[4])) if kind.startswith("cdnv") else (kind, None)
        leaves = [head.clone().requires_grad_() for _ in range(2)]
        found = pair_sums(leaves[0], errors, name, power, variances)
        stats, _, _ = F.pair_stats(leaves[1], variances, "classes", (name,), (power,))
        assert torch.equal(found, stats[0, :3])
        mine, same = torch.autograd.grad((found[1], stats[0, 1]), leaves)
        assert torch.equal(mine, same)
    assert not calls
