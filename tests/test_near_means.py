"""Means that differ, from one another or from their center, by no more than their rounding.

What divides by such a difference leaves the pair or the class out, and says how many there were.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import ncfast
from ncfast import ClassStatistics, NearestCenterAgreement, neural_collapse
from ncfast.known_points import Known
from ncfast.metrics import bootstrap_intervals
from ncfast.metrics.pair_functions import PairFunction, Plan
from ncfast.metrics.pairs import Pairs
from ncfast.metrics.rounding import rounding_of_means

WIDTH = 24
OF_PAIRS = ("cdnv_mean", "cdnv_std", "cdnv2_mean", "log_distance_mean", "log_distance_std")
DTYPES = [torch.float32, torch.float64]


def filled(x: Tensor, y: Tensor, dtype: torch.dtype, batch: int = 7) -> ClassStatistics:
    stats = ClassStatistics(int(y.max()) + 1, x.shape[1], dtype=dtype)
    for part in torch.arange(len(y)).split(batch):
        stats.update(x[part].to(dtype), y[part])
    return stats


def with_twins(seed: int, offset: float, apart: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return tokens of 8 classes and of a ninth: the first one's in another order, ``apart``."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(80) % 8
    x = torch.randn(80, WIDTH, generator=g, dtype=torch.float64)
    x = x + 2 * torch.randn(8, WIDTH, generator=g, dtype=torch.float64)[y] + offset
    twin = x[y == 0][torch.randperm(10, generator=g)].clone()
    twin[:, 0] += apart
    return torch.cat([x, twin]).float().double(), torch.cat([y, torch.full((10,), 8)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("offset", "preset"), [(0, "ncfast"), (1, "official"), (30, "ncfast"), (1000, "ncfast")]
)
def test_a_pair_within_rounding_is_left_out_and_counted(offset, preset, dtype):
    seen = 0
    for seed in range(4):
        x, y = with_twins(seed, offset)
        stats = filled(x, y, dtype)
        seen += int((stats.means[0] != stats.means[8]).any())
        exact = filled(x, y, torch.float64)
        exact.means[8] = exact.means[0]
        found, expected = (neural_collapse(s, preset=preset) for s in (stats, exact))
        assert found["pairs_left_out"] == 1
        tolerance = 1e-9 if dtype == torch.float64 else 1e-5 * (1 + offset)
        for key in OF_PAIRS:
            assert found[key] == pytest.approx(expected[key], rel=tolerance), (seed, key)
            assert "1 coincident pairs are left out" in found.notes[key], key
        if (stats.means[0] != stats.means[8]).any():
            assert "1 differ by no more than their rounding" in found.notes["cdnv_mean"]
        drawn = neural_collapse(stats, preset=preset, pairs=200_000)[
            "cdnv_mean"
        ]  # no fewer than there are
        assert drawn == found["cdnv_mean"]
        ends, same = (bootstrap_intervals(s, preset=preset, repeats=20) for s in (stats, exact))
        for key in OF_PAIRS:
            assert ends[key] == pytest.approx(same[key], rel=tolerance), key
    if dtype == torch.float32 or offset:
        assert seen, "no twin differs from its model: the test shows nothing"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0.0, 1.0, 1000.0])
def test_a_pair_further_apart_than_rounding_counts(offset, dtype):
    """At twenty times the bound a pair is a pair, and what it gives is right to a few percent."""
    x, y = with_twins(0, offset)
    bound = float(rounding_of_means(filled(x, y, dtype), torch.tensor([0, 8])).reach.sum())
    x = torch.where((y == 8)[:, None], x + 20 * bound * torch.eye(WIDTH).double()[0], x)
    found, exact = (neural_collapse(filled(x, y, kind)) for kind in (dtype, torch.float64))
    assert found["pairs_left_out"] == 0
    if dtype == torch.float32:
        assert exact["pairs_left_out"] == 0
        assert found["cdnv_mean"] == pytest.approx(exact["cdnv_mean"], rel=0.2)


def test_a_pair_near_its_bound_is_said_to_decide():
    x, y = with_twins(0, 1.0)
    bound = float(rounding_of_means(filled(x, y, torch.float32), torch.tensor([0, 8])).reach.sum())
    near, far = (
        neural_collapse(filled(*with_twins(0, 1.0, apart=times * bound), torch.float32))
        for times in (4, 1000)
    )
    assert "such pairs may decide this value" in near.notes["cdnv_mean"]
    assert "cdnv_mean" not in far.notes


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_center_errs_less_than_what_it_is_the_mean_of(dtype):
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 9, (400,), generator=g) % torch.randint(1, 9, (400,), generator=g)
    x = (torch.randn(400, WIDTH, generator=g) + 10).double()
    stats, exact = filled(x, y, dtype), [x[y == c].mean(0) for c in range(8)]
    slots, some = torch.arange(8), torch.tensor([0, 1, 5])
    every = rounding_of_means(stats, slots)
    assert every.center == 0
    shares = stats.counts[some] / stats.counts[some].sum()
    for name, weights, chosen in (
        ("classes", torch.full((3,), 1 / 3), some),
        ("tokens", shares, some),
        ("all", torch.full((8,), 1 / 8), slots),
    ):
        found = rounding_of_means(stats, some, name).center
        bound = math.sqrt(float((weights.square() * every.classes[chosen]).sum()))
        assert found == pytest.approx(bound, rel=1e-6), name
        gaps = [
            w * (stats.means[c].double() - exact[c]) for w, c in zip(weights, chosen, strict=True)
        ]
        assert float(sum(gaps).norm()) <= found, name


def loops(points, variances, center, reach, far, function):
    """Return values, pairs left out and how many of these differ, pair by pair."""
    values, left, differ = [], 0, 0
    origin = torch.zeros_like(points[0]) if center is None else center
    for a, b in itertools.combinations(range(len(points)), 2):
        gap = points[a] - points[b]
        same = float(gap.norm()) <= float(reach[a] + reach[b])
        arms = [points[i] - origin for i in (a, b)]
        room = [float(reach[i]) + far for i in (a, b)]
        none = [float(m.norm()) <= r for m, r in zip(arms, room, strict=True)]
        units = [m / m.norm() if not n else m * 0 for m, n in zip(arms, none, strict=True)]
        if function.kind == "cosine":
            values.append(float(units[0] @ units[1]))
            continue
        if function.kind == "log_distance":
            unit = float((units[0] - units[1]).norm())
            known = any(none) or sum(r / float(m.norm()) for m, r in zip(arms, room, strict=True))
            lacking = any(none) or unit <= known
            found = -math.log(unit) if not lacking else 0.0
            differs = unit > 0
        else:
            lacking, differs, apart = same, float(gap.norm()) > 0, float(gap.norm())
            both = float(variances[a] + variances[b]) / 2
            if not lacking:
                cdnv = both / apart ** (2 * function.power)
                found = cdnv if function.kind == "cdnv" else -math.log(apart)
        if lacking:
            left, differ = left + 1, differ + differs
        else:
            values.append(found)
    return values, left, differ


FUNCTIONS = [PairFunction("cdnv", 1), PairFunction("cdnv", 2), PairFunction("log_distance_raw")]
FUNCTIONS += [PairFunction("cosine", target=-0.1, limits=(-1.0, 1.0))]
FUNCTIONS += [PairFunction("log_distance", limits=(-0.7, 2.1))]


def some_points(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return points of which some coincide, chain, share a ray or lie at the center."""
    g = torch.Generator().manual_seed(count)
    points = torch.randn(count, 3, generator=g, dtype=torch.float64)
    reach = torch.rand(count, generator=g, dtype=torch.float64) * 0.02
    points[1], points[2] = points[0], points[0] + 0.015
    for i in range(4, 9):  # a chain: neighbours touch, its ends do not
        points[i] = points[3] + 0.01 * (i - 3)
    points[9] = 3 * points[10]
    points[11], reach[11] = 0.001, 0.0005  # further from 0.002 than that, but not than with 0.003
    return points, torch.rand(count, generator=g, dtype=torch.float64), reach


@pytest.mark.parametrize("count", [12, 40])
@pytest.mark.parametrize("centered", [True, False])
def test_every_pair_is_visited_by_its_definition(count, centered, monkeypatch):
    """Also where the pairs take more than one tile."""
    points, variances, reach = some_points(count)
    if count == 40:
        monkeypatch.setattr("ncfast.known_points.TILE", 16)
        monkeypatch.setattr("ncfast.near_points.TILE", 16)
    center, far = (torch.full((3,), 0.002).double(), 0.003) if centered else (None, 0.0)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    pairs = Pairs(points, order, variances, center, Known(reach[order], far))
    for function, found in zip(FUNCTIONS, pairs.go_through(FUNCTIONS, Plan(bins=10)), strict=True):
        values, left, differ = loops(points, variances, center, reach, far, function)
        assert (found.pairs, found.coincident, found.rounded) == (len(values), left, differ)
        values = torch.tensor(values, dtype=torch.float64)
        assert found.mean == pytest.approx(float(values.mean()), rel=1e-9, abs=1e-12)
        assert found.std == pytest.approx(float(values.std()), rel=1e-7)
        assert found.greatest == pytest.approx(float(values.max()), rel=1e-9)
        assert found.deviation == pytest.approx(float((values - function.target).abs().mean()))
        if function.limits:
            counts = torch.histc(values, 10, *function.limits)
            assert found.histogram["counts"].tolist() == counts.tolist()
            assert found.histogram["coincident"] == left
    drawn = pairs.go_through(FUNCTIONS, Plan(drawn=20_000))
    for function, found in zip(FUNCTIONS, drawn, strict=True):
        values, left, _ = loops(points, variances, center, reach, far, function)
        share = left / (len(values) + left)
        assert found.coincident / 20_000 == pytest.approx(share, abs=0.02)
        assert found.greatest <= max(values) * (1 + 1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_mean_at_the_center_has_no_direction(dtype):
    """One class lies where the mean of all lies, but for rounding: as if it were exactly there."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(60, WIDTH, generator=g, dtype=torch.float64) + 5
    middle, y = x[torch.randperm(60, generator=g)], torch.arange(60) % 6
    y = torch.cat([y, torch.full((60,), 6)])
    stats = filled(torch.cat([x, middle]), y, dtype)
    head = torch.randn(7, WIDTH, generator=g).to(dtype)
    found = neural_collapse(stats, head, ood_mean=head[0])
    assert found["means_at_center"] == 1
    assert found.per_class["cosines"][6] == 0
    assert 0 < found.per_class["norms"][6] < 1e-4
    others = neural_collapse(stats, head, classes=range(6), ood_mean=head[0])
    for key in ("nc3_mean", "nc5_mean"):
        assert found[key] == pytest.approx(others[key] * 6 / 7, rel=1e-4), key
        assert "equal the center up to rounding: their cosine counts as 0" in found.notes[key]
    # 15 pairs of the others as they are, 6 with the one in the middle at cosine 0.
    mean = others["interference_mean"] * 15 / 21
    assert found["interference_mean"] == pytest.approx(mean, rel=1e-4)
    assert found["log_distance_mean"] == pytest.approx(others["log_distance_mean"], rel=1e-4)
    assert "6 coincident pairs are left out" in found.notes["log_distance_mean"]
    assert found.notes["log_norm_std"] == "a class mean equals the center up to rounding"
    assert math.isfinite(found["norm_cov"])
    if dtype == torch.float32:
        shifted = filled(torch.cat([x, middle + 1e-3]), y, dtype)
        assert neural_collapse(shifted, head)["means_at_center"] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_directions_that_differ_by_rounding_have_no_log_distance(dtype):
    """Means on three rays: pairs of one ray are left out, whatever their lengths."""
    g = torch.Generator().manual_seed(4)
    rays = torch.nn.functional.normalize(torch.randn(3, WIDTH, generator=g).double())
    y = torch.arange(9)
    x = rays[y % 3] * (1 + y[:, None])
    found = neural_collapse(filled(x, y, dtype), center="none")
    apart = [float((rays[a] - rays[b]).norm()) for a, b in ((0, 1), (0, 2), (1, 2))]
    expected = -sum(map(math.log, apart)) / 3
    assert found["log_distance_mean"] == pytest.approx(expected, rel=1e-5)
    assert "9 coincident pairs are left out" in found.notes["log_distance_mean"]
    assert found["pairs_left_out"] == 0
    assert math.isfinite(found["cdnv_mean"])


def test_classes_that_follow_the_same_token_do_not_decide_cdnv():
    """Layer 0 of a causal model: a feature is the row of its token, exactly the same each time."""
    g = torch.Generator().manual_seed(5)
    rows = torch.randn(30, 64, generator=g)
    before = torch.randint(0, 30, (4000,), generator=g)
    after = torch.where(
        torch.rand(4000, generator=g) < 0.5,
        100 + before // 10 * 10 + torch.randint(0, 4, (4000,), generator=g),  # of ten tokens
        before * 3 + torch.randint(0, 3, (4000,), generator=g),  # of one token alone
    )
    stats = ClassStatistics(140, 64)
    for part in torch.arange(4000).split(256):
        stats.update(rows[before[part]], after[part])
    exact = ClassStatistics(140, 64, dtype=torch.float64)
    exact.update(rows[before].double(), after)
    groups = {}
    for label in stats.class_ids[stats.counts > 0].tolist():
        groups.setdefault(tuple(sorted(set(before[after == label].tolist()))), []).append(label)
    alone = [len(v) for tokens, v in groups.items() if len(tokens) == 1]
    found = neural_collapse(stats)
    assert found["pairs_left_out"] == sum(n * (n - 1) // 2 for n in alone) > 50
    assert found["cdnv_mean"] < 10
    assert found["cdnv_mean"] == pytest.approx(neural_collapse(exact)["cdnv_mean"], rel=1e-4)


def test_nearest_means_that_cannot_be_told_apart_are_said():
    x, y = with_twins(0, 0.0)
    stats = filled(x, y, torch.float32)
    agreement = NearestCenterAgreement(stats, torch.randn(9, WIDTH))
    agreement.update(x.float(), y)
    note = neural_collapse(stats, agreement=agreement).notes["nc4_agreement"]
    assert note.startswith("some class means are equal up to rounding")
    apart = neural_collapse(stats, classes=range(8), agreement=agreement)
    assert "nc4_agreement" not in apart.notes


def test_well_separated_means_are_visited_once(monkeypatch):
    """Nothing of this costs anything where no pair is near: one call of the op, the same bits."""
    calls = []
    op = ncfast.functional.pair_stats
    monkeypatch.setattr(
        "ncfast.metrics.pairs.F.pair_stats", lambda *a, **k: calls.append(1) or op(*a, **k)
    )
    g = torch.Generator().manual_seed(0)
    stats = ClassStatistics(20, 16)
    stats.update(torch.randn(200, 16, generator=g), torch.arange(200) % 20)
    assert neural_collapse(stats)["pairs_left_out"] == 0
    assert len(calls) == 1
