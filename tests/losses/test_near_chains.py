"""Chains of near points: pairs of them that are apart count, and touching points are found."""

from __future__ import annotations

import importlib
import itertools
import math

import pytest
import torch
from torch import Tensor

from ncfast import ClassStatistics, neural_collapse
from ncfast.geometry import Rows
from ncfast.known_points import Known
from ncfast.losses import UniformityRegularizer, WithinClassRegularizer
from ncfast.losses.near_pairs import PairsOfSome, sums_of_some
from ncfast.near_points import touching_points
from tests.losses.near import KINDS, D, V, agree, by_loops, moments


def chain(count: int, far: float, last: bool = False) -> Tensor:
    """Return bf16 rows along a line, neighbours within rounding; the last is off the line's end."""
    points = torch.zeros(count + last, 3)
    points[:, 0], points[:count, 1] = 1, torch.linspace(0, far, count)
    if last:
        points[-1, 1], points[-1, 2] = far, 0.05
    return points.bfloat16()


def apart(head: Tensor, kind: str) -> tuple[Tensor, int]:
    """Return a term of head rows by plain loops over pairs that rounding does not explain."""
    reach = head.detach().norm(dim=1) * 2**-8
    far, points = 0.0, head
    if kind != "log_distance_raw":
        far, points = reach.square().sum().sqrt() / len(head), head - head.mean(0)
    lengths, values = points.detach().norm(dim=1), []
    for a, b in itertools.combinations(range(len(head)), 2):
        one, other, room = points[a], points[b], reach[a] + reach[b]
        if kind != "log_distance_raw":
            if lengths[a] <= reach[a] + far or lengths[b] <= reach[b] + far:
                continue
            one, other = one / one.norm(), other / other.norm()
            room = (reach[a] + far) / lengths[a] + (reach[b] + far) / lengths[b]
        distance = (one - other).norm()
        if distance > room:
            values.append(-distance.log())
    found = torch.stack(values)
    if kind == "riesz":
        power = head.shape[1] - 2
        return (power * found).logsumexp(0) - math.log(len(values)), len(values)
    return found.mean(), len(values)


@pytest.fixture(params=[4, 512])
def tile(request, monkeypatch) -> int:
    for module in ("known_points", "near_points"):
        monkeypatch.setattr(f"ncfast.{module}.TILE", request.param)
    return request.param


def chain_with_others() -> Tensor:
    """Return a chain of 20 directions between 40 rows that touch none, in no order, D of 6."""
    g = torch.Generator().manual_seed(0)
    head = torch.randn(60, 6, generator=g)
    # Rounding moves a row by up to its own length times 2^-8; the mean is known ten times better.
    steps = torch.linspace(0, 0.08, 20)[:, None]
    head[:20] = (head[:1] + steps * head[20:21]) * (1 + torch.rand(20, 1, generator=g))
    return head[torch.randperm(60, generator=g)].bfloat16()


CHAINS = [("log_distance_raw", chain(3, 0.014))]  # of three directions none is left to learn from
CHAINS += [(k, h) for k in KINDS[2:] for h in (chain(60, 0.3, last=True), chain_with_others())]


@pytest.mark.parametrize(("kind", "head"), CHAINS)
def test_pairs_of_a_chain_that_are_apart_count(kind, head, tile):
    leaf, exact = head.clone().requires_grad_(), head.double().requires_grad_()
    expected, count = apart(exact, kind)
    assert count < len(head) * (len(head) - 1) / 2
    term = UniformityRegularizer(len(head), head.shape[1], of="head", kind=kind)
    found = term(None, None, leaf)
    assert term.last["pairs"] == count
    agree(found, leaf, expected, exact, 8e-3)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=2e-5)


def test_chains_have_the_values_that_were_found_by_hand():
    for head, value, pairs in ((chain(3, 0.014), 4.2703, 1), (chain(60, 0.3, True), 2.5010, 1771)):
        leaf = head.clone().requires_grad_()
        term = UniformityRegularizer(len(head), 3, of="head", kind="log_distance_raw")
        found = term(None, None, leaf)
        (grad,) = torch.autograd.grad(found, leaf)
        assert float(found.detach()) == pytest.approx(value, abs=5e-5)
        assert term.last["pairs"] == pairs
        if pairs == 1:
            assert grad[:, 1].tolist() == pytest.approx([71.5, 0, -71.5], rel=4e-3)


@pytest.mark.parametrize("power", [1, 2])
def test_class_means_of_a_chain_as_they_are_measured(power, tile):
    base = chain(40, 0.2, last=True)
    x = torch.cat([base, base])
    x[:41, 2], x[41:, 2] = x[:41, 2] + 0.01, x[41:, 2] - 0.01
    y = torch.arange(41).repeat(2)
    stats = ClassStatistics(41, 3)
    stats.update(x, y)
    leaf, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    term = WithinClassRegularizer(41, 3, kind="cdnv", power=power)
    found = term(leaf, y)
    if power == 1:
        assert float(found.detach()) == pytest.approx(0.11999, abs=5e-6)
        assert float(found.detach()) == pytest.approx(neural_collapse(stats)["cdnv_mean"], rel=1e-4)
    means, variances = moments(exact, y, 41)
    # 4 u^2 of float32 is nothing beside the rounding of the two tokens: (2^-8)^2 / 2.
    reach = (2**-16 / 2 * (means.square().sum(1) + variances)).detach().sqrt()
    pairs = list(itertools.combinations(range(41), 2))
    near = {
        (a, b) for a, b in pairs if (means[a] - means[b]).detach().norm() <= reach[a] + reach[b]
    }
    assert 0 < len(near) < len(pairs)
    assert term.last["pairs"] == len(pairs) - len(near)
    agree(found, leaf, by_loops(f"cdnv{power}", means, variances, near), exact, 8e-3)


@pytest.mark.parametrize("kind", ["cdnv1", "cdnv2", "log_distance_raw"])
def test_slopes_of_near_pairs_keep_their_digits(kind):
    """Two points are 1e-13 apart: products of rows would hold three digits of their slopes."""
    g = torch.Generator().manual_seed(1)
    points = torch.randn(V, D, generator=g, dtype=torch.float64)
    points[7] = points[0] + 1e-13 * torch.randn(D, generator=g)
    points[8] = points[0]
    rows, known = Rows(points, torch.arange(V)), Known(torch.full((V,), 1e-16).double())
    name, power = (kind[:4], int(kind[4])) if kind.startswith("cdnv") else (kind, 1)
    some = touching_points(rows, known, (name,)) | (torch.arange(V) < 3)
    assert 3 <= some.sum() <= 4
    pairs = PairsOfSome(rows, known, some, name, power)
    leaf, exact = points.clone().requires_grad_(), points.clone().requires_grad_()
    variances = torch.rand(V, generator=g, dtype=torch.float64)
    own = variances if name == "cdnv" else None
    count, total = sums_of_some(pairs, leaf, own)
    rest = {(a, b) for a, b in itertools.combinations(range(V), 2) if not (some[a] or some[b])} | {
        (0, 8)
    }
    assert count == V * (V - 1) / 2 - len(rest)
    expected = by_loops(kind, exact, variances, without=rest)
    agree(total / count.detach(), leaf, expected, exact, 1e-9)


@pytest.mark.parametrize("kind", ["cdnv", "riesz"])
@pytest.mark.parametrize("width", [3, 100])
def test_points_that_touch_are_found(kind, width, tile):
    g = torch.Generator().manual_seed(0)
    points = torch.randn(30, width, generator=g, dtype=torch.float64)
    for i, j in ((29, 5), (2, 29), (17, 2), (20, 11), (8, 20)):
        points[i] = points[j] + 0.6e-6 * torch.nn.functional.normalize(points[j], dim=0).flip(0)
    points[4] = 0
    reach = torch.full((30,), 0.5e-6).double()
    directions, lengths = torch.nn.functional.normalize(points), points.norm(dim=1)
    rows = Rows(points, torch.arange(30))
    found, members = touching_points(rows, Known(reach), (kind,)).tolist(), set()
    for a, b in itertools.combinations(range(30), 2):
        near = (points[a] - points[b]).norm() <= 1e-6
        if kind == "riesz":
            angle = 0.5e-6 / lengths[a] + 0.5e-6 / lengths[b]
            near = 4 not in (a, b) and (directions[a] - directions[b]).norm() <= angle
        if near:
            assert found[a] or found[b]
            members |= {a, b}
    assert len(members) >= 6
    assert found[4] == (kind == "riesz")
    assert not any(found[i] for i in range(30) if i not in members | {4})


def test_few_pairs_are_compared_along_every_axis(monkeypatch):
    """Rows of bfloat16 are all near one another along any one axis."""
    module, compared = importlib.import_module("ncfast.near_points"), []
    yielded = module._candidates

    def counted(*given):
        for left, right in yielded(*given):
            compared.append(left.numel())
            yield left, right

    monkeypatch.setattr(module, "_candidates", counted)
    head = torch.randn(512, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    head[1] = head[0]
    head[1, 0] *= 1.01
    term = UniformityRegularizer(512, 256, of="head")
    term(None, None, head)
    assert term.last["pairs"] == 512 * 511 / 2 - 1
    assert sum(compared) == 1


def test_terms_of_near_pairs_compile():
    head = chain(60, 0.3, last=True)
    leaves = [head.clone().requires_grad_() for _ in range(2)]
    values = []
    for leaf, compiled in zip(leaves, (False, True), strict=True):
        term = UniformityRegularizer(61, 3, of="head")
        run = torch.compile(term, backend="eager") if compiled else term
        values.append(run(None, None, leaf))
        values[-1].backward()
    assert values[0] == values[1]
    assert torch.equal(leaves[0].grad, leaves[1].grad)
