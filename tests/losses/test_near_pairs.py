"""Terms of class means and head rows that differ by no more than their rounding.

Each is compared with its definition by loops in float64, without the pairs that rounding explains.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from ncfast import ClassStatistics, neural_collapse, use_backend
from ncfast.geometry import Rows
from ncfast.known_points import Known, leaders
from ncfast.losses import DualityRegularizer, UniformityRegularizer, WithinClassRegularizer
from ncfast.metrics import bootstrap_intervals

from ..ops.backends import EVERY

D, V = 24, 9
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
CALIBRATED = ("nc1w_mean", "nc1w2_mean", "gnc2w_mean", "gnc2w_unit_mean")


@pytest.fixture(params=EVERY)
def backend(request) -> str:
    """Name a backend; the kernels of GPUs are among them."""
    if request.param == "cuda-host":
        request.getfixturevalue("cuda_host")
    return request.param


def twins(dtype: torch.dtype, offset: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return tokens of 8 classes and of a ninth: the first one's in another order.

    In half precision a tenth of their values are another by one step, as a model in it may give.
    """
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(80) % 8
    x = torch.randn(80, D, generator=g, dtype=torch.float64)
    x = (x + 2 * torch.randn(8, D, generator=g, dtype=torch.float64)[y] + offset).to(dtype)
    again = torch.randperm(10, generator=g)
    x, y = torch.cat([x, x[y == 0][again]]), torch.cat([y, torch.full((10,), 8)])
    if dtype == torch.bfloat16:
        step = torch.rand(10, D, generator=g) < 0.1
        x[80:] = torch.where(step, x[80:] * (1 + torch.finfo(dtype).eps), x[80:])
    order = torch.randperm(90, generator=g)
    return x[order], y[order]


def units(points: Tensor) -> Tensor:
    return torch.nn.functional.normalize(points - points.mean(0))


def by_loops(kind: str, means: Tensor, variances: Tensor, without: set[tuple[int, int]]) -> Tensor:
    """Return the definition of a term over all pairs but those."""
    directions, values = units(means), []
    for a, b in itertools.combinations(range(len(means)), 2):
        if (a, b) in without:
            continue
        if kind.startswith("cdnv"):
            square = (means[a] - means[b]).square().sum() ** int(kind[-1])
            values.append((variances[a] + variances[b]) / 2 / square)
        elif kind == "log_distance_raw":
            values.append(-(means[a] - means[b]).norm().log())
        else:
            values.append(-(directions[a] - directions[b]).norm().log())
    found = torch.stack(values)
    if kind == "riesz":
        return ((D - 2) * found).logsumexp(0) - math.log(len(values))
    return found.mean()


def moments(x: Tensor, y: Tensor, classes: int = V) -> tuple[Tensor, Tensor]:
    means = torch.stack([x[y == c].mean(0) for c in range(classes)])
    spread = torch.stack([(x[y == c] - means[c]).square().sum(1).mean() for c in range(classes)])
    return means, spread


def term_of(kind: str, **settings) -> WithinClassRegularizer | UniformityRegularizer:
    if kind.startswith("cdnv"):
        return WithinClassRegularizer(V, D, kind="cdnv", power=int(kind[-1]), **settings)
    return UniformityRegularizer(V, D, kind=kind, **settings)


def agree(found: Tensor, leaf: Tensor, expected: Tensor, exact: Tensor, tolerance: float) -> None:
    """Compare values, and gradients by their largest."""
    (grad,), (slope,) = (
        torch.autograd.grad(value, to) for value, to in ((found, leaf), (expected, exact))
    )
    assert float(found.detach()) == pytest.approx(
        float(expected.detach()), rel=tolerance, abs=tolerance
    )
    assert (grad.double() - slope).abs().max() <= 2 * tolerance * slope.abs().max()


KINDS = ("cdnv1", "cdnv2", "log_distance", "log_distance_raw", "riesz")


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


@pytest.mark.parametrize("kind", ["cdnv", "riesz"])
@pytest.mark.parametrize("tile", [4, 512])
def test_chains_are_followed_to_their_first(kind, tile, monkeypatch):
    monkeypatch.setattr("ncfast.known_points.TILE", tile)
    g = torch.Generator().manual_seed(0)
    points = torch.randn(30, 3, generator=g, dtype=torch.float64)
    for i, j in ((29, 5), (2, 29), (17, 2), (20, 11), (8, 20)):  # links against the order
        points[i] = points[j] + 0.6e-6 * torch.nn.functional.normalize(points[j], dim=0).flip(0)
    points[4] = 0
    reach = torch.full((30,), 0.5e-6).double()
    rows = Rows(points, torch.arange(30))
    expected = list(range(30))
    directions = torch.nn.functional.normalize(points)
    lengths = points.norm(dim=1)
    for _ in range(30):
        for a, b in itertools.permutations(range(30), 2):
            near = (points[a] - points[b]).norm() <= 1e-6
            if kind == "riesz":
                angle = 0.5e-6 / lengths[a] + 0.5e-6 / lengths[b]
                near = 4 not in (a, b) and (directions[a] - directions[b]).norm() <= angle
            if near:
                expected[a] = expected[b] = min(expected[a], expected[b])
    assert len(set(expected)) <= 26
    assert leaders(rows, Known(reach), kind).tolist() == expected


def test_where_nothing_is_near_nothing_is_laid_together(monkeypatch):
    calls = []
    monkeypatch.setattr("ncfast.losses.known_means.leaders", lambda *a: calls.append(a))
    x, y = twins(torch.float32, 0.0)
    for kind in KINDS:
        term_of(kind)(x[y < 8], y[y < 8])
    assert not calls
