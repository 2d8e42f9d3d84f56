"""pair_stats: the definition, points that coincide, directions that do not exist."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

import ncfast.functional as F
from ncfast import use_backend
from ncfast.testing import tiny_tokens

from .backends import in_float64
from .contract import GradientContract

KINDS = ("cdnv", "log_distance", "cosine", "log_distance_raw")
UNIT = ("log_distance", "cosine", "riesz")


class Pairs:
    """Hold every pair of the points a call visits, in plain differentiable torch."""

    def __init__(self, dtype, points, variances, center, kinds, powers, targets, index, edges):
        rows = slice(None) if index is None else index
        self.p = points.to(dtype)[rows]
        self.spread = None if variances is None else variances.to(dtype)[rows]
        if isinstance(center, str):
            origin = self.p.sum(0) / max(len(self.p), 1) if center == "classes" else 0.0
        else:
            origin = center.to(dtype)
        q = self.p - origin
        squares = q.square().sum(1)
        self.norms = torch.where(squares > 0, torch.where(squares > 0, squares, 1).sqrt(), 0)
        directed = (squares > 0)[:, None]
        unit = torch.where(directed, q / torch.where(directed, self.norms[:, None], 1), 0)
        self.i, self.j = torch.triu_indices(len(self.p), len(self.p), 1)
        self.raw = (self.p[self.i] - self.p[self.j]).square().sum(1)
        self.unit = (unit[self.i] - unit[self.j]).square().sum(1)
        self.cosine = (unit[self.i] * unit[self.j]).sum(1)
        self.directed = (squares > 0)[self.i] & (squares > 0)[self.j]
        self.kinds, self.edges = kinds, edges
        self.powers = [1] * len(kinds) if powers is None else powers
        self.targets = [0.0] * len(kinds) if targets is None else targets

    def values(self, kind: str, power: int) -> tuple[Tensor, Tensor]:
        """Return each pair's value and whether it has one."""
        if kind == "cosine":
            return self.cosine, self.directed
        square = self.unit if kind in UNIT else self.raw
        has = square > 0
        if kind in UNIT:
            has = has & self.directed
        square = torch.where(has, square, 1)
        if kind == "cdnv":
            return (self.spread[self.i] + self.spread[self.j]) / (2 * square**power), has
        return -0.5 * power * square.log(), has

    def sums(self, p: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the values that count of function p, and what they and their squares add up to."""
        value, has = self.values(self.kinds[p], self.powers[p])
        value = (value if self.kinds[p] == "cosine" else value[has]).double()
        if self.kinds[p] == "riesz" and len(value):
            return value, value.logsumexp(0), (2 * value).logsumexp(0)
        return value, value.sum(), value.square().sum()


class TestPairStats(GradientContract):
    """The contract of every op."""

    op = "pair_stats"
    outputs = (
        "histogram",
        "coincident",
        *(f"{part} of function {p}" for p in range(6) for part in ("sums", "extremes")),
    )
    differentiable = (0, 1, 2)
    quick_gradcheck = ("reference",)  # loops over rows: two minutes otherwise

    @classmethod
    def call(cls, *args, function=None):
        """Return each function's sums apart: what has gradients, each to a scale of its own."""
        stats, histogram, coincident = (function or F.pair_stats)(*args)
        # Without a pair, extremes are NaN and sums of energies have no logarithm.
        rest = torch.where(stats[:, :1] > 0, stats[:, [0, 3, 4, 5]], 0).detach()
        sums = torch.where(stats[:, :1] > 0, stats[:, 1:3], 0)
        parts = [t[p] for p in range(len(stats)) for t in (sums, rest)]
        return histogram, coincident, *parts

    @staticmethod
    def plain(dtype, *args):
        args = (*args, *(None,) * (8 - len(args)))
        pairs = Pairs(dtype, *args)
        kinds, edges = args[3], args[7]
        bins = 0 if edges is None else edges.shape[1] - 1
        histogram = torch.zeros(len(kinds), bins, dtype=torch.int64)
        coincident = torch.zeros(len(kinds), dtype=torch.int64)
        parts = []
        for p, kind in enumerate(kinds):
            coincident[p] = (~pairs.values(kind, pairs.powers[p])[1]).sum()
            value, total, squares = pairs.sums(p)
            away = (value - pairs.targets[p]).abs().sum()
            ends = (value.min(), value.max()) if len(value) else (away, away)
            count = away.new_tensor(len(value))
            parts.append(torch.stack([total, squares]))
            parts.append(torch.stack([count, *ends, away]).detach())
            if bins:
                counted = np.histogram(value.detach().numpy(), edges[p].numpy())[0]
                histogram[p] = torch.from_numpy(counted)
        return histogram, coincident, *parts

    @classmethod
    def output_scale(cls, args, name):
        # Of riesz, s times the logarithm of a distance: those cancel where they add up to little.
        if "of function" not in name:
            return None
        args = (*args, *(None,) * (8 - len(args)))
        p = int(name.rpartition(" ")[2])
        pairs = Pairs(torch.float64, *args)
        if args[3][p] != "riesz":
            return None
        value, total, squares = (t.detach() for t in pairs.sums(p))
        if name.startswith("extremes"):
            total, squares = value.abs().sum(), pairs.powers[p] * len(value)
        return max(float(abs(total)), float(abs(squares)), pairs.powers[p])

    @classmethod
    def gradient_scale(cls, args, upstream, position):
        # What the pairs of one point reach: they cancel where points surround it.
        args = (*args, *(None,) * (8 - len(args)))
        pairs = Pairs(torch.float64, *(a.detach() if isinstance(a, Tensor) else a for a in args))
        reach = torch.zeros(len(pairs.p), dtype=torch.float64)
        for p, kind in enumerate(pairs.kinds):
            value, has = pairs.values(kind, pairs.powers[p])
            by_sum, by_squares = upstream.get(2 + 2 * p, torch.zeros(2)).abs()
            slope = torch.where(has, by_sum + 2 * by_squares * value.abs(), 0)
            if kind == "riesz":
                _, total, squares = pairs.sums(p)
                slope = by_sum * (value - total).exp()
                slope = slope + 2 * by_squares * (2 * value - squares).exp()
                # A share of a sum is as far off as s times the logarithm of a distance.
                slope = torch.where(has, slope * pairs.powers[p], 0)
            for a in (pairs.i, pairs.j):
                norm = torch.where(pairs.norms[a] > 0, pairs.norms[a], math.inf)
                square = torch.where(has, pairs.unit if kind in UNIT else pairs.raw, 1)
                if position == 1:
                    share = value / (pairs.spread[pairs.i] + pairs.spread[pairs.j])
                    size = share if kind == "cdnv" else 0 * value
                elif kind == "cosine":
                    size = 1 / norm
                elif kind in UNIT:
                    size = pairs.powers[p] / (square.sqrt() * norm)
                elif position == 2:
                    size = 0 * value
                else:
                    power = 2 * pairs.powers[p] if kind == "cdnv" else 1
                    size = (power * value.abs() if kind == "cdnv" else 1) / square.sqrt()
                reach.index_add_(0, a, slope * size)
        if not len(reach):
            return 0.0
        return float(reach.sum() if position == 2 else reach.max())

    @staticmethod
    def sized(n: int):
        points, _ = tiny_tokens(n, 13, 7)
        return points, points[:, 0].square(), "classes", KINDS, None, (0.0, 0.5, 0.0, 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_definition_on_integers(backend, dtype):
    # Squared distances are powers of two, so that every cdnv is exact.
    points = [[0, 0], [1, 1], [2, 0], [9, 9], [1, -1]]
    variances, index = [3, 5, 1, 7, 4], [4, 0, 2, 1]
    values = {1: [], 2: []}
    for a, b in itertools.combinations(index, 2):
        square = sum((s - t) ** 2 for s, t in zip(points[a], points[b], strict=True))
        for power, list_ in values.items():
            list_.append((variances[a] + variances[b]) / (2 * square**power))
    with use_backend(backend):
        stats, histogram, coincident = F.pair_stats(
            torch.tensor(points, dtype=dtype),
            torch.tensor(variances, dtype=torch.float32),
            "classes",
            ("cdnv", "cdnv"),
            (1, 2),
            (1.0, 0.5),
            torch.tensor(index),
        )
    for row, target, found in zip(stats.tolist(), (1.0, 0.5), values.values(), strict=True):
        away = sum(abs(v - target) for v in found)
        squares = sum(v * v for v in found)
        assert row == [6, sum(found), squares, min(found), max(found), away]
    assert histogram.shape == (2, 0)
    assert coincident.tolist() == [0, 0]


@in_float64
def test_the_logarithms_and_cosines_by_hand(backend):
    points = torch.tensor([[3.0, 0.0], [0.0, 4.0], [-2.0, 0.0]], dtype=torch.float64)
    with use_backend(backend):
        stats, _, _ = F.pair_stats(points, None, "none", KINDS[1:])
        moved, _, _ = F.pair_stats(points + 7, None, torch.full((2,), 7.0).double(), KINDS[1:])
    expected = {
        0: [-math.log(2) / 2, -math.log(2), -math.log(2) / 2],  # of unit vectors
        1: [0.0, -1.0, 0.0],
        2: [-math.log(5), -math.log(5), -math.log(20) / 2],
    }
    for p, values in expected.items():
        assert stats[p, 0] == 3
        assert stats[p, 1].item() == pytest.approx(sum(values), abs=1e-15)
        assert stats[p, 2].item() == pytest.approx(sum(v * v for v in values), abs=1e-15)
        assert stats[p, 3:5].tolist() == pytest.approx([min(values), max(values)], abs=1e-15)
        assert stats[p, 5].item() == pytest.approx(sum(map(abs, values)), abs=1e-15)
    assert (moved - stats).abs().max() <= 1e-14


@in_float64
def test_a_simplex_is_a_simplex(backend):
    # K points of an exact equiangular tight frame around a shifted origin.
    k = 7
    points = torch.eye(k, dtype=torch.float64) - 1 / k + 3
    cosine, target = -1 / (k - 1), -1 / (k - 1)
    with use_backend(backend):
        stats, _, coincident = F.pair_stats(
            points, torch.zeros(k), "classes", KINDS, targets=(0, 0, target, 0)
        )
    pairs = k * (k - 1) / 2
    values = [0.0, -0.5 * math.log(2 - 2 * cosine), cosine, -0.5 * math.log(2)]
    assert stats[:, 0].tolist() == [pairs] * 4
    for row, value in zip(stats, values, strict=True):
        assert (row[3:5] - value).abs().max() <= 1e-14
        assert (
            row[1:3] - pairs * torch.tensor([value, value**2], dtype=torch.float64)
        ).abs().max() <= 1e-12
    assert stats[2, 5] <= 1e-13  # equiangularity
    assert coincident.tolist() == [0] * 4


@pytest.mark.parametrize("k", [0, 1, 2])
def test_few_points(backend, k):
    points = torch.tensor([[3.0, 4.0], [0.0, 0.0]])[:k]
    with use_backend(backend):
        for index in (None, torch.arange(k)):
            stats, _, coincident = F.pair_stats(points, points[:, 0], "none", KINDS, index=index)
            if k == 2:
                one = [1, 0.06, 0.06**2, 0.06, 0.06, 0.06]
                assert stats[0].tolist() == pytest.approx(one, rel=1e-6)
                assert stats[:, 0].tolist() == [1, 0, 1, 1]
                assert coincident.tolist() == [0, 1, 1, 0]  # the origin has no direction
                assert stats[2, 1:].tolist() == [0.0] * 5
            else:
                assert stats[:, [0, 1, 2, 5]].tolist() == [[0.0] * 4] * 4
                assert stats[:, 3:5].isnan().all()
                assert coincident.tolist() == [0] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_point_is_no_pair_with_itself_whatever_is_asked(backend, kind):
    """Close pairs may be found apart from the others, and a point with itself beside them."""
    points = torch.tensor([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]])
    exact = {"cosine": 0.0, "log_distance": -math.log(2) / 2, "log_distance_raw": -math.log(18) / 2}
    value = exact.get(kind, 1 / 18)
    with use_backend(backend):
        stats, _, coincident = F.pair_stats(points, torch.ones(3), "none", (kind,))
    sums = [3, 3 * value, 3 * value**2, value, value, 3 * abs(value)]
    assert stats[0].tolist() == pytest.approx(sums, rel=1e-5)
    assert coincident.tolist() == [0]


def test_a_point_s_cosine_with_itself_is_not_in_the_gradient(backend):
    """It would cancel there, but for rounding: of classes at right angles, all there would be."""
    points = torch.diag(torch.linspace(0.3, 2, 40)).requires_grad_()
    with use_backend(backend):
        stats = F.pair_stats(points, None, "none", ("cosine",))[0]
        (gradient,) = torch.autograd.grad(stats[0, 2], points)
    assert not gradient.any()


def test_coincident_points_are_counted_and_left_out(backend):
    points = tiny_tokens(29, 5, 3)[0]
    points[7] = points[11] = points[2]
    points[20] = points[19]
    leaves = points.requires_grad_(), torch.ones(29, requires_grad=True)
    with use_backend(backend):
        stats, _, coincident = F.pair_stats(*leaves, "none", KINDS)
        gradients = torch.autograd.grad(stats[:, 1:3].sum(), leaves)
    assert coincident.tolist() == [4, 4, 0, 4]
    assert stats[:, 0].tolist() == [402, 402, 406, 402]
    assert stats.isfinite().all()
    assert all(g.isfinite().all() for g in gradients)
    # Doubling a point keeps its direction, and moves it away from its twin.
    scaled = points.detach().clone()
    scaled[7] *= 2
    with use_backend(backend):
        assert F.pair_stats(scaled, leaves[1], "none", KINDS)[2].tolist() == [2, 4, 0, 2]


def test_a_close_pair_moves_the_center_wherever_it_is(backend):
    """In the first 256, which the emulator's build of small sizes goes through apart."""
    points = torch.randn(300, 17, generator=torch.Generator().manual_seed(3))
    center = 0.1 * points[7]
    points[1] = center + 5 * (points[0] - center) + 3e-3 * points[2]
    leaves = center.requires_grad_(), center.detach().double().requires_grad_()
    with use_backend(backend):
        found = F.pair_stats(points, None, leaves[0], ("log_distance",))[0][0, 1]
        (a,) = torch.autograd.grad(found, leaves[0])  # here: outside it is another backend's
    units = torch.nn.functional.normalize(points.double() - leaves[1])
    exact = -torch.nn.functional.pdist(units).log().sum()
    assert float(found.detach()) == pytest.approx(float(exact.detach()), rel=1e-5)
    (b,) = torch.autograd.grad(exact, leaves[1])
    assert (a.double() - b).abs().max() <= 1e-3 * b.abs().max()


def test_no_cosine_lies_beyond_one(backend):
    """Rounding takes those of parallel points there: out of a histogram that ends at 1."""
    rows = tiny_tokens(12, 37, 3)[0]
    points = torch.cat([rows, 3.7 * rows, -0.3 * rows])
    edges = torch.linspace(-1, 1, 9).double()[None]
    with use_backend(backend):
        stats, histogram, _ = F.pair_stats(points, None, "none", ("cosine",), edges=edges)
    count, least, most = stats[0, [0, 3, 4]].tolist()
    assert least >= -1
    assert most <= 1
    assert histogram.sum() == count == 36 * 35 / 2


def test_rows_left_out_are_never_read(backend):
    points, variances = tiny_tokens(17, 5, 3)[0], torch.rand(17)
    index = torch.tensor([0, 3, 9, 12, 16])
    edges = torch.linspace(-3, 3, 13).double().repeat(4, 1)
    with use_backend(backend):
        apart = F.pair_stats(points[index], variances[index], "classes", KINDS, edges=edges)
        outside = torch.ones(17, dtype=torch.bool)
        outside[index] = False
        points[outside], variances[outside] = math.nan, -1.0
        leaves = points.requires_grad_(), variances.requires_grad_()
        found = F.pair_stats(*leaves, "classes", KINDS, index=index, edges=edges)
        gradients = torch.autograd.grad(found[0][:, 1:3].sum(), leaves)
    for a, b in zip(found, apart, strict=True):
        assert torch.equal(a.detach(), b)
    for gradient in gradients:
        assert not gradient[outside].any()
        assert gradient[index].all()


@in_float64
def test_invariances(backend):
    points = tiny_tokens(53, 13, 7, torch.float64)[0]
    variances = torch.rand(53, dtype=torch.float64)
    order = torch.randperm(53, generator=torch.Generator().manual_seed(1))
    rotation = torch.linalg.qr(torch.randn(13, 13, dtype=torch.float64))[0]
    kinds = KINDS[:3]
    with use_backend(backend):
        stats = F.pair_stats(points, variances, kinds=kinds)[0]
        same = [
            F.pair_stats(points[order], variances[order], kinds=kinds)[0],
            F.pair_stats(points, variances, kinds=kinds, index=order)[0],
            F.pair_stats(points @ rotation - 4, variances, kinds=kinds)[0],
            F.pair_stats(points * 3, variances * 9, kinds=kinds)[0],
        ]
        twice = F.pair_stats(points * 2, variances * 4, kinds=("cdnv",), powers=(2,))[0]
        once = F.pair_stats(points, variances, kinds=("cdnv",), powers=(2,))[0]
    for other in same:
        assert ((other - stats).abs() <= 1e-12 * stats.abs().amax(1, keepdim=True)).all()
    assert twice[0, 1] == once[0, 1] / 4


@in_float64
def test_a_gradient_step_apart_pushes_apart(backend):
    points = tiny_tokens(23, 5, 7, torch.float64)[0].requires_grad_()
    with use_backend(backend):
        before = F.pair_stats(points, torch.ones(23))[0][0, 1]
        gradient = torch.autograd.grad(before, points)[0]
        after = F.pair_stats((points - 1e-4 * gradient).detach(), torch.ones(23))[0][0, 1]
    assert after < before
    # Distances do not change when all points move together.
    assert gradient.sum(0).abs().max() <= 1e-12 * gradient.abs().max()
