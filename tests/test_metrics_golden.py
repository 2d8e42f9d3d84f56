"""neural_collapse() on the golden table, and by the conventions of other work."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import ncfast.functional as F
from ncfast import ClassStatistics, NearestCenterAgreement, neural_collapse

MEAN_STD = ("mean", "std")


def golden_tokens() -> tuple[Tensor, Tensor, Tensor]:
    """Return x, y and head of the golden table: V=7, D=8, N=60, classes 0, 3, 4 and 5 present."""
    i, d, c = torch.arange(60), torch.arange(8).double(), torch.arange(7).double()[:, None]
    y = (i * i + 3 * i) % 7
    phase = i[:, None].double() + 1
    x = torch.sin(0.7 * phase * (d + 1)) + 0.5 * torch.cos(
        1.3 * (y[:, None].double() + 1) * (d + 1)
    )
    return x.float(), y, torch.cos(0.9 * (c + 1) * (d + 2)).float()


def golden() -> tuple[ClassStatistics, Tensor]:
    """Return the statistics and the head of the golden table."""
    x, y, head = golden_tokens()
    stats = ClassStatistics(7, 8)
    stats.update(x, y)
    return stats, head


GOLDEN = {
    "tokens": 60,
    "classes": 4,
    "cdnv_mean": 2.630625,
    "cdnv2_mean": 2.146958,
    "cdnv2_std": 2.616212,
    "nc1_pinv": 3.229790,
    "nc1_quotient": 5.938700,
    "log_norm_std": 0.191964,
    "interference_mean": -0.320726,
    "interference_std": 0.378393,
    "etf_error": 0.492411,
    "log_distance_mean": -0.465909,
    "log_distance_std": 0.160385,
    "nc3_mean": 0.053692,
    "nc3_distance": 1.350654,
    "self_duality_error": 1.391373,
    "nc1w_mean": 14.637427,
    "nc1w2_mean": 296.352478,
    "gnc2w_mean": -0.607749,
    "gnc2w_unit_mean": 0.062265,
    "unc3_std": 0.410272,
    "unc3_var": 0.168323,
    "unc3_cov": 6.617511,
}


@pytest.mark.parametrize("key", GOLDEN)
def test_golden_values(key):
    stats, head = golden()
    assert neural_collapse(stats, head)[key] == pytest.approx(GOLDEN[key], rel=2e-6, abs=6e-7)


def test_golden_counts_and_cosines():
    stats, head = golden()
    assert stats.counts.tolist() == [17, 0, 0, 9, 18, 16, 0]
    report = neural_collapse(stats, head)
    assert report.per_class["class_ids"].tolist() == [0, 3, 4, 5]
    expected = torch.tensor([0.461010, -0.162188, 0.328196, -0.412251]).double()
    assert (report.per_class["cosines"] - expected).abs().max() < 1e-6


def test_golden_subset_is_centred_on_itself():
    stats, head = golden()
    report = neural_collapse(stats, head, classes=[4, 0, 3])
    expected = torch.tensor([0.229611, -0.181328, 0.120625]).double()
    assert (report.per_class["cosines"] - expected).abs().max() < 1e-6
    assert report["unc3_std"] == pytest.approx(0.212886, abs=1e-6)


def test_golden_center_and_decisions():
    x, y, head = golden_tokens()
    stats, _ = golden()
    center = stats.means[[0, 3, 4, 5]].double().mean(0)
    expected = torch.tensor([0.242498, -0.166392, -0.134543]).double()
    assert (center[:3] - expected).abs().max() < 1e-6
    agreement = NearestCenterAgreement(stats, head)
    agreement.update(x, y)
    assert (int(agreement.hits.sum()), int(agreement.totals.sum())) == (14, 60)
    assert neural_collapse(stats, head, agreement=agreement)["nc4_agreement"] == 14 / 60


def test_golden_variation_of_the_log_kernel():
    stats, head = golden()
    report = neural_collapse(stats, head)
    # The table's variation is population std over mean; six pairs.
    population = report["log_distance_std"] * math.sqrt(5 / 6)
    assert population / report["log_distance_mean"] == pytest.approx(-0.314248, abs=1e-6)


def test_golden_gradient_of_the_spread_of_cosines():
    stats, head = golden()
    head.requires_grad_()
    present = torch.tensor([0, 3, 4, 5])
    F.alignment(head, stats.means, "classes", present).std().backward()
    expected = torch.tensor([0.155874, 0, 0, 0.088596, 0.100827, 0.182720, 0])
    assert (head.grad.norm(dim=1) - expected).abs().max() < 1e-6
    assert (head.grad * head.detach()).sum(1).abs().max() < 1e-6


def test_official_pairs_are_of_uncentred_means_and_squared_distances():
    stats, head = golden()
    report = neural_collapse(stats, head, preset="official")
    found = [report[f"{name}_{part}"] for name in ("cdnv", "log_distance") for part in MEAN_STD]
    assert found == pytest.approx([2.146958, 2.616212, -0.284102, 0.249398], abs=1e-6)


def test_official_norms_are_squared():
    stats, head = golden()
    report = neural_collapse(stats, head, preset="official")
    norms = report.per_class["norms"]
    assert report["norm_mean"] == pytest.approx(0.676842, abs=1e-6)
    assert float(norms.square().std()) == pytest.approx(0.226334, abs=1e-6)
    logs = neural_collapse(stats, head, preset="linguistic-collapse")
    assert logs["norm_mean"] == pytest.approx(float(norms.log().mean()))
