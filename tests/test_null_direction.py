"""A direction that carries nothing but rounding has no part in tr(pinv(Sigma_B) Sigma_W).

As behind a LayerNorm: all features lie in a hyperplane, far from the origin or near.
"""

from __future__ import annotations

import re

import numpy
import pytest
import torch
from torch import Tensor

from ncfast import ClassStatistics, DataError, neural_collapse
from ncfast.geometry import Rows
from ncfast.metrics.rounding import rounding_of_means
from ncfast.spectrum import spectrum, within_over_between

WIDTH = 24


def tokens(seed: int, offset: float, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return features and labels in a hyperplane, and the features in its own D - 1 axes."""
    g = torch.Generator().manual_seed(seed)
    double = {"generator": g, "dtype": torch.float64}
    normal = torch.nn.functional.normalize(torch.randn(WIDTH, **double), dim=0)
    flat = torch.eye(WIDTH, dtype=torch.float64) - torch.outer(normal, normal)
    means = torch.randn(len(counts), WIDTH, **double) @ flat
    y = torch.arange(len(counts)).repeat_interleave(counts)
    y = y[torch.randperm(len(y), generator=g)]
    x = means[y] + 0.5 * torch.randn(len(y), WIDTH, **double) @ flat + offset * normal
    return x, y, x @ torch.linalg.svd(flat).U[:, : WIDTH - 1]


def state(x: Tensor, y: Tensor, dtype: torch.dtype, stored: torch.dtype | None = None):
    stats = ClassStatistics(int(y.max()) + 1, x.shape[1], dtype=dtype)
    for part in torch.arange(len(y)).split(100):
        stats.update(x[part].to(stored or dtype), y[part])
    return stats


COUNTS = {
    "K > D": torch.full((120,), 10),
    "K > D, unbalanced": torch.cat(
        [torch.ones(40).long(), torch.arange(2, 60), torch.tensor([4000])]
    ),
    "K < D": torch.full((12,), 15),
    "K < D, unbalanced": torch.tensor([1, 1, 2, 3, 5, 8, 700]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
def test_the_null_direction_is_left_out(counts, dtype):
    for seed in range(3):
        for offset in (0.0, 1.0, 30.0, 1000.0):
            x, y, inside = tokens(seed, offset, counts)
            exact = neural_collapse(state(inside, y, torch.float64))
            report = neural_collapse(state(x, y, dtype))
            rank = min(len(counts), WIDTH) - 1
            for key in ("nc1_pinv", "nc1_svd"):
                assert f"rank {rank} of" in report.notes[key], (seed, offset)
                tolerance = 1e-9 if dtype == torch.float64 else 1e-6 * (1 + offset)
                assert report[key] == pytest.approx(exact[key], rel=tolerance), (seed, offset)
            kept, left = map(float, re.findall(r"([\d.e+-]+) times", report.notes["nc1_pinv"]))
            assert kept > 100
            assert left < 0.5
            assert report["rank_kept_margin"] == pytest.approx(kept, rel=0.06)
            assert report["rank_dropped_margin"] == pytest.approx(left, rel=0.06)
            assert (report["rank_between"], report["rank_dropped"]) == (rank, WIDTH - rank)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_features_in_half_precision_are_cut_by_their_own_rounding(stored):
    counts = COUNTS["K > D"]
    for seed in range(3):
        for offset in (0.0, 3.0, 30.0):
            x, y, inside = tokens(seed, offset, counts)
            exact = neural_collapse(state(inside, y, torch.float64))["nc1_pinv"]
            for dtype in (torch.float32, torch.float64):
                report = neural_collapse(state(x, y, dtype, stored))
                assert f"rank {WIDTH - 1} of" in report.notes["nc1_pinv"], (seed, offset)
                assert report["nc1_pinv"] == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 7, 5000])
def test_the_bound_holds_and_is_no_more_than_it_needs(dtype, batch):
    """The errors that means really have, beside the bound: no larger, and not 1,000 times less."""
    counts = torch.tensor([1, 2, 30, 900])
    ratios = []
    for offset in (0.0, 1.0, 1000.0):
        x, y, _ = tokens(0, offset, counts)
        x = x.to(torch.float32).double()  # so that sums in float64 are exact for float32
        stats = ClassStatistics(4, WIDTH, dtype=dtype)
        for part in torch.arange(len(y)).split(batch):
            stats.update(x[part].to(dtype), y[part])
        exact = [x[y == c].numpy().astype(numpy.longdouble).mean(0) for c in range(4)]
        gaps = [stats.means[c].numpy() - exact[c] for c in range(4)]
        error = torch.tensor([float(gap @ gap) for gap in gaps], dtype=torch.float64)
        bound = rounding_of_means(stats, torch.arange(4)).classes
        assert bool((error <= bound).all()), (offset, error / bound)
        ratios.append(float((error / bound).max()))
    if dtype == torch.float32:
        assert max(ratios) > 1 / 1000


def test_means_that_differ_by_rounding_alone_have_no_geometry():
    g = torch.Generator().manual_seed(0)
    # The same tokens in every class, in another order: means differ in their last digits.
    base = 5 + torch.randn(50, WIDTH, generator=g)
    x = torch.cat([base[torch.randperm(50, generator=g)] for _ in range(8)])
    y = torch.arange(8).repeat_interleave(50)
    stats = state(x, y, torch.float32)
    assert (stats.means != stats.means[0]).any()
    report = neural_collapse(stats, torch.randn(8, WIDTH, generator=g))
    reason = "all class means are equal up to their rounding"
    for key in ("nc1_quotient", "nc1_pinv", "nc1_svd", "cdnv_mean", "cdnv2_std", "etf_error"):
        assert report.notes[key] == reason, key
    for key in ("interference_mean", "equiangularity", "log_distance_mean", "norm_cov"):
        assert report.notes[key] == reason, key
    assert "equal the center up to rounding" in report.notes["nc3_mean"]
    assert "equal the center up to rounding" in report.notes["unc3_std"]


def test_what_features_were_stored_in_travels_with_the_state(tmp_path):
    x, y = torch.randn(20, 4), torch.arange(20) % 3
    coarse, fine = ClassStatistics(3, 4), ClassStatistics(3, 4)
    assert coarse.feature_roundoff == 0
    coarse.update(x.bfloat16(), y)
    fine.update(x, y)
    assert (coarse.feature_roundoff, fine.feature_roundoff) == (2.0**-8, 2.0**-24)
    coarse.save(tmp_path / "a")
    assert ClassStatistics.load(tmp_path / "a").feature_roundoff == 2.0**-8
    assert coarse.to("cpu").feature_roundoff == 2.0**-8
    fine.merge(coarse)
    assert fine.feature_roundoff == 2.0**-8
    fine.reset()
    assert fine.feature_roundoff == 0


def test_quadratic_forms_never_fall_below_zero():
    rows = Rows(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]).double(), torch.arange(3))
    found = spectrum(rows, rows.gram())
    rounded = torch.tensor([[1.0, 0.0], [0.0, -1e-8]]).double()
    assert within_over_between(found, rounded, 3, 2) >= 0
    with pytest.raises(DataError, match=r"Sigma_W has -0\.5 along a direction"):
        within_over_between(found, torch.tensor([[1.0, 0.0], [0.0, -0.5]]).double(), 3, 2)
