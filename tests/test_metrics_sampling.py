"""Drawn pairs: estimates whose stated intervals hold, by name and never silently."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ncfast import ClassStatistics, neural_collapse
from ncfast.metrics.pair_functions import PairFunction, Plan
from ncfast.metrics.pairs import Pairs
from ncfast.metrics.report import IMBALANCED
from ncfast.metrics.sampling import drawn_pairs, estimate_mean

K, D = 300, 16
FUNCTIONS = [
    PairFunction("cdnv", 1),
    PairFunction("cdnv", 2),
    PairFunction("cosine", target=-1 / (K - 1), limits=(-1.0, 1.0)),
    PairFunction("log_distance", limits=(-0.7, 2.1)),
    PairFunction("log_distance_raw"),
]
OF_PAIRS = {
    *("cdnv_mean", "cdnv_std", "cdnv2_mean", "cdnv2_std", "equiangularity"),
    *("log_distance_mean", "log_distance_std"),
    *("nc1w_mean", "nc1w2_mean", "gnc2w_mean", "gnc2w_unit_mean"),
}


def heavy_tails() -> tuple[Tensor, Tensor]:
    """Return Student-t points (3 degrees of freedom) and log-normal variances of 300 classes.

    The skewness over pairs is 3.8 for cdnv, 18 for its exponent 2.
    """
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(K, D, generator=generator, dtype=torch.float64)
    scale = torch.randn(K, 3, generator=generator, dtype=torch.float64).square().mean(1).sqrt()
    return normal / scale[:, None], torch.randn(K, generator=generator).double().exp()


def test_intervals_cover_what_they_state_on_heavy_tails():
    """1,000 repeats of 4,000 pairs; what is found to be unbalanced is said to be, and exempt."""
    points, variances = heavy_tails()
    pairs = Pairs(points, torch.arange(K), variances, points.mean(0))
    truth = pairs.visit(FUNCTIONS, Plan())
    parts = [(t, part) for t in range(len(FUNCTIONS)) for part in ("mean", "std", "deviation")]
    covered, imbalance = dict.fromkeys(parts, 0), dict.fromkeys(parts, 0.0)
    for seed in range(1000):
        for t, found in enumerate(pairs.draw(FUNCTIONS, Plan(drawn=4000, seed=seed))):
            for part, estimate in found.estimates.items():
                covered[t, part] += estimate.low <= getattr(truth[t], part) <= estimate.high
                imbalance[t, part] += estimate.imbalance / 1000
    stated = {part for part in parts if imbalance[part] <= IMBALANCED}
    assert {(t, "mean") for t in range(len(FUNCTIONS))} <= stated
    assert (1, "std") not in stated  # the std of 1 / distance^4: a few pairs decide it
    shares = {part: covered[part] / 1000 for part in stated}
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares


def test_interval_of_skewed_values_is_halls():
    """At its ends t + g t^2 / 3 + g^2 t^3 / 27 + g / 6n is +-1.96 / sqrt n (Hall 1992)."""
    values = torch.tensor([0.0, 0, 1, 1, 2, 2, 3, 20]).double()
    gap = values - values.mean()
    spread = gap.square().mean().sqrt()
    g = float((gap / spread).pow(3).mean())
    found = estimate_mean(values)
    for end, z in ((found.low, 1.959964), (found.high, -1.959964)):
        t = (float(values.mean()) - end) / float(spread)
        moved = t + g * t**2 / 3 + g**2 * t**3 / 27 + g / (6 * 8)
        assert moved == pytest.approx(z / 8**0.5, rel=1e-9)


def test_drawn_pairs_are_uniform_over_distinct_pairs():
    counts = torch.zeros(6, 6)
    i, j = drawn_pairs(6, 60_000, seed=1)
    counts.index_put_((i, j), torch.ones(len(i)), accumulate=True)
    assert counts.sum() == 60_000
    assert (counts.diagonal() == 0).all()
    off = counts[~torch.eye(6, dtype=torch.bool)]
    assert ((off - 2000).abs() < 5 * 2000**0.5).all()


def some_statistics() -> tuple[ClassStatistics, Tensor]:
    generator = torch.Generator().manual_seed(7)
    y = torch.randint(0, 90, (900,), generator=generator)
    x = torch.randn(900, 12, generator=generator) + torch.randn(90, 12, generator=generator)[y]
    stats = ClassStatistics(90, 12)
    stats.update(x, y)
    return stats, torch.randn(90, 12, generator=generator)


@pytest.mark.parametrize("preset", ["ncfast", "official"])
def test_drawing_is_asked_for_by_name_and_stated(preset):
    stats, head = some_statistics()
    exact = neural_collapse(stats, head, preset=preset)
    assert not exact.standard_errors
    assert not exact.intervals
    assert exact.settings["pairs"] == "all"
    drawn = neural_collapse(stats, head, preset=preset, pairs=2000, seed=5)
    assert drawn.settings["pairs"] == "2000 drawn, seed 5"
    assert set(drawn.standard_errors) == set(drawn.intervals) == OF_PAIRS
    assert "which a draw misses" in drawn.notes["riesz_log_mean"]
    for key, value in exact.items():
        if key == "riesz_log_mean":
            assert not math.isnan(value)
            assert math.isnan(drawn[key])
        elif key not in OF_PAIRS:
            assert drawn[key] == value or key in exact.notes, key
        else:
            low, high = drawn.intervals[key]
            assert low < drawn[key] < high
            assert abs(drawn[key] - value) < 5 * drawn.standard_errors[key], key
    again = neural_collapse(stats, head, preset=preset, pairs=2000, seed=5)
    assert again.to_dict() == drawn.to_dict()
    assert neural_collapse(stats, head, pairs=2000, seed=6)["cdnv_mean"] != drawn["cdnv_mean"]
    assert "+/-" in str(drawn)
    assert "standard_error" in drawn.to_frame()


def test_no_fewer_than_all_means_all():
    stats, head = some_statistics()
    report = neural_collapse(stats, head, pairs=90 * 89 // 2)
    assert report.settings["pairs"] == "all"
    assert report.to_dict() == neural_collapse(stats, head).to_dict()


def test_too_few_to_state_an_interval():
    stats, head = some_statistics()
    with pytest.raises(ValueError, match="pairs is 99; expected at least 100"):
        neural_collapse(stats, head, pairs=99)


def test_a_value_that_few_pairs_decide_says_so():
    stats, head = some_statistics()
    stats.means[1] = stats.means[0] + 1e-3  # one pair of 4,005, met about once in 2,000 draws
    report = neural_collapse(stats, head, pairs=3900, seed=2)
    assert "its interval may be too short" in report.notes["cdnv_mean"]


def test_coincident_pairs_and_histograms_of_drawn_pairs():
    stats, head = some_statistics()
    stats.means[: 90 // 2] = stats.means[0]
    report = neural_collapse(stats, head, pairs=3000, histograms=20)
    exact = neural_collapse(stats, head, histograms=20)
    for name in ("pair_log_distance", "pair_cosine"):
        found = report.distributions[name]
        same = found["coincident"] if name == "pair_log_distance" else 0
        assert int(found["counts"].sum()) + found["outside"] + same == 3000
        total = exact.distributions[name]["counts"].sum()
        gap = found["counts"] / found["counts"].sum() - exact.distributions[name]["counts"] / total
        assert gap.abs().max() < 0.05
    assert "coincident pairs are left out" in report.notes["cdnv_mean"]


def test_energies_are_not_estimated():
    points, variances = heavy_tails()
    pairs = Pairs(points, torch.arange(K), variances, points.mean(0))
    with pytest.raises(ValueError, match=r"riesz cannot be estimated .*; expected all pairs"):
        pairs.draw([PairFunction("riesz", D - 2)], Plan(drawn=4000))
