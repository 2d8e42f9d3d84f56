"""Terms of class means and head rows that differ by no more than their rounding.

Each is compared with its definition by loops in float64, without the pairs that rounding explains.
"""

from __future__ import annotations

import importlib
import itertools
import math

import pytest
import torch
from torch import Tensor

import ncfast.functional as F
from ncfast import ClassStatistics, neural_collapse, use_backend
from ncfast.geometry import Rows
from ncfast.known_points import Known
from ncfast.losses import DualityRegularizer, UniformityRegularizer, WithinClassRegularizer
from ncfast.losses.known_means import errors_of_head, pair_sums
from ncfast.losses.near_pairs import PairsOfSome, sums_of_some
from ncfast.metrics import bootstrap_intervals
from ncfast.near_points import touching_points

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
