"""neural_collapse(): the invariants, the ideals, and what is undefined."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ncfast import ClassStatistics, DataError, NearestCenterAgreement, neural_collapse, trace
from ncfast.catalogue import METRICS
from tests.test_metrics_golden import golden, golden_tokens


def test_an_out_of_distribution_mean_without_direction():
    stats, head = golden()
    report = neural_collapse(stats, head, ood_mean=torch.zeros(8))
    assert report.notes["nc5_mean"] == "ood_mean is zero"


def test_a_misspelt_key_is_told_its_neighbour():
    report = neural_collapse(*golden())
    assert "unc3" not in report
    assert report.get("unc3") is None
    with pytest.raises(KeyError, match=r"no metric 'unc3' in this report; did you mean 'unc3_"):
        report["unc3"]
    with pytest.raises(KeyError, match=r"expected one of .*'nc3_mean'"):
        report["zzz"]


def test_keys_come_in_their_order():
    stats, head = golden()
    keys = list(neural_collapse(stats, head, ood_mean=head[0]))
    assert keys[:4] == ["tokens", "classes", "cdnv_mean", "cdnv_std"]
    assert [key for key in keys if METRICS[key].family != "Rounding"][-2:] == [
        "gnc2w_unit_mean",
        "nc5_mean",
    ]
    assert len(keys) == len(set(keys)) == 38


def test_invariance_to_rotation_shift_and_scale():
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 9, (200,), generator=generator)
    head = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0]
    scales = torch.rand(9, 1, generator=generator, dtype=torch.float64) + 0.5

    def report(features: Tensor, rows: Tensor) -> dict[str, float]:
        stats = ClassStatistics(9, 6, dtype=torch.float64)
        stats.update(features, y)
        return neural_collapse(stats, rows).to_dict()

    before = report(x, head)
    after = report(3.7 * x @ rotation.T + 11, scales * head @ rotation.T)
    powers = {"trace_within": 2, "trace_between": 2, "norm_mean": 1}
    powers |= {"cdnv2_mean": -2, "cdnv2_std": -2}
    of_head_lengths = {"self_duality_error", "nc1w_mean", "nc1w2_mean", "gnc2w_mean"}
    for key in set(before) - of_head_lengths:
        expected = 3.7 ** powers.get(key, 0) * before[key]
        assert after[key] == pytest.approx(expected, rel=1e-9), key


@pytest.mark.parametrize(("classes", "width"), [(5, 5), (5, 4), (5, 9), (2, 3)])
def test_a_collapsed_model_reaches_the_ideals(classes, width):
    """K <= D and K = D + 1: a simplex, no spread inside classes, and a head along the means."""
    corners = torch.eye(classes, dtype=torch.float64) - 1 / classes
    basis = torch.linalg.svd(corners).U[:, : classes - 1]
    simplex = torch.cat([corners @ basis, torch.zeros(classes, width - classes + 1)], 1)
    stats = ClassStatistics(classes, width, dtype=torch.float64)
    stats.update(simplex.repeat(3, 1), torch.arange(classes).repeat(3))
    agreement = NearestCenterAgreement(stats, 2 * simplex)
    agreement.update(simplex, torch.arange(classes))
    report = neural_collapse(stats, 2 * simplex, agreement=agreement)
    zero = ("cdnv_mean", "cdnv2_mean", "nc1_pinv", "nc1_svd", "nc1_quotient", "norm_cov")
    zero += ("log_norm_std", "equiangularity", "etf_error", "self_duality_error", "unc3_std")
    for key in zero:
        assert report[key] == pytest.approx(0, abs=1e-12), key
    assert report["interference_mean"] == pytest.approx(-1 / (classes - 1), rel=1e-12)
    distance = math.sqrt(2 * classes / (classes - 1))  # of two unit vectors at that cosine
    assert report["log_distance_mean"] == pytest.approx(-math.log(distance), rel=1e-12)
    assert report["nc3_mean"] == pytest.approx(1)
    assert report["nc3_distance"] == pytest.approx(0, abs=1e-7)
    assert report["nc4_agreement"] == 1
    if classes > 2:
        assert report["interference_std"] == pytest.approx(0, abs=1e-12)
        assert report["log_distance_std"] == pytest.approx(0, abs=1e-7)


def test_undefined_values_are_nan_with_a_reason():
    stats = ClassStatistics(4, 2)
    report = neural_collapse(stats, torch.ones(4, 2))
    assert math.isnan(report["nc3_mean"])
    assert report.notes["nc3_mean"] == "no class occurred"
    stats.update(torch.tensor([[1.0, 2.0]]), torch.tensor([3]))
    report = neural_collapse(stats, torch.ones(4, 2))
    assert report["tokens"] == 1
    for key in ("nc1_quotient", "norm_cov", "unc3_std", "unc3_var", "unc3_cov"):
        assert math.isnan(report[key])
        assert report.notes[key] == "needs two classes"
    assert report["nc3_mean"] == 0  # the only mean is its own center: no direction
    headless = neural_collapse(stats)
    assert headless.notes["nc3_mean"] == "no head_weight was given"
    for key, value in headless.items():
        assert math.isfinite(value) or key in headless.notes


def test_a_mean_at_the_center_has_no_logarithm():
    stats = ClassStatistics(3, 2)
    stats.update(torch.tensor([[2.0, 1], [0, 0], [-2, -1]]), torch.arange(3))
    report = neural_collapse(stats)
    assert math.isnan(report["log_norm_std"])
    assert report.notes["log_norm_std"] == "a class mean equals the center"
    assert math.isfinite(report["norm_cov"])


def test_equal_means_have_no_geometry():
    stats = ClassStatistics(3, 2)
    stats.update(torch.tensor([[1.0, 0], [1, 0], [1, 0], [1, 2], [1, -2]]), torch.arange(5) % 3)
    stats.means[:] = stats.means[0]
    report = neural_collapse(stats, torch.eye(3, 2))
    for key in ("nc1_quotient", "cdnv_mean", "cdnv_std", "nc1_pinv", "interference_mean"):
        assert report.notes[key] == "all class means are equal"
    for key in ("equiangularity", "etf_error", "self_duality_error", "norm_cov"):
        assert report.notes[key] == "all class means are equal"
    assert report.notes["log_distance_mean"] == "all class means have one direction"
    assert math.isfinite(report["nc1w_mean"])
    assert math.isfinite(report["trace_within"])


def test_coincident_pairs_are_left_out_and_counted():
    stats, head = golden()
    stats.means[3] = stats.means[0]
    report = neural_collapse(stats, head)
    assert report.notes["cdnv_mean"] == "1 coincident pairs are left out"
    points, variance = stats.means[[0, 3, 4, 5]].double(), stats.m2 / stats.counts
    variance = variance[[0, 3, 4, 5]]
    values = [
        (variance[a] + variance[b]) / 2 / (points[a] - points[b]).square().sum()
        for a in range(4)
        for b in range(a + 1, 4)
        if (a, b) != (0, 1)
    ]
    assert report["cdnv_mean"] == pytest.approx(float(torch.stack(values).mean()), rel=1e-5)
    assert math.isfinite(report["log_distance_std"])
    head[3] = head[0]
    assert neural_collapse(stats, head).notes["gnc2w_mean"] == "1 coincident pairs are left out"


def test_two_classes_have_one_pair():
    stats, head = golden()
    report = neural_collapse(stats, head, classes=[0, 4])
    for key in ("cdnv_std", "cdnv2_std", "interference_std", "log_distance_std"):
        assert report.notes[key] == "needs two pairs of classes"
    assert report["interference_mean"] == pytest.approx(-1)


def test_a_subset_needs_its_own_scatter():
    x, y, head = golden_tokens()
    report = neural_collapse(golden()[0], head, classes=[0, 3])
    assert "needs Sigma_W of exactly these classes" in report.notes["nc1_pinv"]
    # Classes that did not occur change no scatter: naming them is the same set.
    stats = ClassStatistics(7, 8, scatter={"some": [0, 1, 2, 3]})
    stats.update(x, y)
    assert math.isfinite(neural_collapse(stats, head, classes=[0, 3])["nc1_pinv"])
    assert math.isfinite(neural_collapse(stats, head, classes=[0, 2, 3])["nc1_svd"])
    assert math.isnan(neural_collapse(stats, head, classes=[0, 4])["nc1_pinv"])


@pytest.mark.parametrize(
    ("classes", "relation"), [(20, "full rank: K = 20 > D + 1"), (8, "not of")]
)
def test_the_rank_of_between_is_stated(classes, relation):
    generator = torch.Generator().manual_seed(1)
    stats = ClassStatistics(classes, 8)
    stats.update(torch.randn(90, 8, generator=generator), torch.arange(90) % classes)
    report = neural_collapse(stats)
    assert relation in report.notes["nc1_pinv"]
    assert math.isfinite(report["nc1_pinv"])


@pytest.mark.parametrize("preset", ["ncfast", "official"])
def test_histograms_hold_every_pair(preset):
    stats, head = golden()
    report = neural_collapse(stats, head, preset=preset, histograms=14)
    points = stats.means[[0, 3, 4, 5]].double()
    centred = points - points.mean(0)
    units = centred / centred.norm(dim=1, keepdim=True)
    bare = points / points.norm(dim=1, keepdim=True)
    a, b = torch.triu_indices(4, 4, 1)
    logs = units if preset == "ncfast" else bare
    values = {
        "pair_cosine": (units[a] * units[b]).sum(1),
        "pair_log_distance": -(logs[a] - logs[b]).norm(dim=1).log(),
    }
    assert set(report.distributions) == set(values)
    for name, found in report.distributions.items():
        expected, edges = torch.histogram(values[name], found["edges"])
        assert torch.equal(edges, found["edges"])
        assert found["counts"].tolist() == expected.tolist()
        assert (found["outside"], found["coincident"]) == (0, 0)
    assert not neural_collapse(stats, head).distributions


def test_each_pair_is_visited_once_and_nothing_large_is_born():
    """One visit of the means, one of the head rows; no tensor of K x 64 values."""
    classes, width = 2000, 12
    stats = ClassStatistics(classes, width)
    generator = torch.Generator().manual_seed(0)
    stats.update(torch.randn(classes, width, generator=generator), torch.arange(classes))
    head = torch.randn(classes, width, generator=generator)

    class Sizes(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(tensor, Tensor):
                    self.largest = max(self.largest, tensor.numel())
            return out

    with trace() as calls, Sizes() as sizes:
        neural_collapse(stats, head, histograms=30)
    assert sum(call.op == "pair_stats" for call in calls) == 2
    assert sizes.largest <= classes * 64


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"center": "mean"}, ValueError, "center is 'mean'"),
        ({"preset": "paper"}, ValueError, "preset is 'paper'"),
        ({"classes": []}, DataError, "classes is empty"),
        ({"classes": [7]}, DataError, r"ids in \[0, 7\)"),
        ({"head_weight": torch.zeros(6, 8)}, ValueError, r"\(6, 8\)"),
        ({"ood_mean": torch.zeros(7)}, ValueError, r"ood_mean is \(7,\)"),
        ({"histograms": -1}, ValueError, "histograms is -1"),
    ],
)
def test_bad_arguments(arguments, error, message):
    stats, head = golden()
    with pytest.raises(error, match=message):
        neural_collapse(stats, **{"head_weight": head, **arguments})


def test_report_reads_like_a_mapping_and_a_table():
    stats, head = golden()
    report = neural_collapse(stats, head)
    assert len(report) == len(list(report)) == len(report.to_dict())
    assert "nc3_mean" in str(report)
    assert report.settings == {"center": "classes", "preset": "ncfast", "pairs": "all"}


def test_to_frame():
    stats, head = golden()
    frame = neural_collapse(stats, head).to_frame()
    assert frame.set_index("metric").loc["classes", "value"] == 4
