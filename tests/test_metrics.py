"""neural_collapse(): the golden table, the invariants, and independent float64 computations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ncfast import ClassStatistics, DataError, neural_collapse


def golden() -> tuple[ClassStatistics, Tensor]:
    """Return the input of the golden table: V=7, D=8, N=60, classes 0, 3, 4 and 5 present."""
    i, d, c = torch.arange(60), torch.arange(8).double(), torch.arange(7).double()[:, None]
    y = (i * i + 3 * i) % 7
    phase = i[:, None].double() + 1
    x = torch.sin(0.7 * phase * (d + 1)) + 0.5 * torch.cos(
        1.3 * (y[:, None].double() + 1) * (d + 1)
    )
    stats = ClassStatistics(7, 8)
    stats.update(x.float(), y)
    return stats, torch.cos(0.9 * (c + 1) * (d + 2)).float()


GOLDEN = {
    "tokens": 60,
    "classes": 4,
    "nc1_quotient": 5.938700,
    "log_norm_std": 0.191964,
    "nc3_mean": 0.053692,
    "nc3_distance": 1.350654,
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


def test_official_norms_are_squared():
    stats, head = golden()
    report = neural_collapse(stats, head, preset="official")
    norms = report.per_class["norms"]
    assert report["norm_mean"] == pytest.approx(0.676842, abs=1e-6)
    assert float(norms.square().std()) == pytest.approx(0.226334, abs=1e-6)
    logs = neural_collapse(stats, head, preset="linguistic-collapse")
    assert logs["norm_mean"] == pytest.approx(float(norms.log().mean()))


def independent(
    x: Tensor, y: Tensor, head: Tensor, chosen: list[int], center: str, everyone: list[int]
) -> dict[str, float]:
    """Compute the keys class by class in float64, sharing no code with the package."""
    x, head = x.double(), head.double()
    means = {c: x[y == c].mean(0) for c in everyone}
    sizes = {c: int((y == c).sum()) for c in everyone}
    tokens = sum(sizes[c] for c in chosen)
    middle = {
        "classes": sum(means[c] for c in chosen) / len(chosen),
        "tokens": sum(sizes[c] * means[c] for c in chosen) / tokens,
        "all": sum(means[c] for c in everyone) / len(everyone),
        "none": torch.zeros(x.shape[1]).double(),
    }[center]
    within = sum(float((row - means[c]) @ (row - means[c])) for c in chosen for row in x[y == c])
    norms = [float((means[c] - middle).norm()) for c in chosen]
    cosines = [
        float((means[c] - middle) @ head[c] / (means[c] - middle).norm() / head[c].norm())
        for c in chosen
    ]
    units = [
        float((head[c] / head[c].norm() - (means[c] - middle) / (means[c] - middle).norm()).norm())
        for c in chosen
    ]
    k = len(chosen)
    mean = sum(cosines) / k
    var = sum((s - mean) ** 2 for s in cosines) / (k - 1)
    norm_mean = sum(norms) / k
    logs = [math.log(n) for n in norms]
    log_mean = sum(logs) / k
    between = sum(n * n for n in norms) / k
    return {
        "tokens": tokens,
        "classes": k,
        "trace_within": within / tokens,
        "trace_between": between,
        "nc1_quotient": within / tokens / between,
        "norm_mean": norm_mean,
        "norm_cov": math.sqrt(sum((n - norm_mean) ** 2 for n in norms) / k) / norm_mean,
        "log_norm_std": math.sqrt(sum((v - log_mean) ** 2 for v in logs) / (k - 1)),
        "nc3_mean": mean,
        "nc3_distance": sum(units) / k,
        "unc3_std": math.sqrt(var),
        "unc3_var": var,
        "unc3_cov": math.sqrt(var * (k - 1) / k) / mean,
    }


@pytest.mark.parametrize("center", ["classes", "tokens", "all", "none"])
@pytest.mark.parametrize("classes", [None, [9, 2, 5, 7]])
@pytest.mark.parametrize("compact", [False, True])
def test_every_key_against_an_independent_computation(center, classes, compact):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(300, 7, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 12, (300,), generator=generator)
    y[y == 3] = 4
    x = x + torch.randn(12, 7, generator=generator, dtype=torch.float64)[y]
    head = torch.randn(12, 7, generator=generator, dtype=torch.float64)
    kept = [2, 5, 7, 8, 9] if compact else None
    stats = ClassStatistics(12, 7, classes=kept, dtype=torch.float64)
    stats.update(x, y)
    everyone = kept or [c for c in range(12) if c != 3]
    if compact and center == "all":
        with pytest.raises(DataError, match="keeps 5 of 12"):
            neural_collapse(stats, head, classes, center)
        return
    report = neural_collapse(stats, head, classes, center)
    expected = independent(x, y, head, sorted(classes or everyone), center, everyone)
    assert set(report) == set(expected)
    for key, value in expected.items():
        assert report[key] == pytest.approx(value, rel=1e-9), key
    assert not report.notes


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
    for key in ("nc3_mean", "nc3_distance", "unc3_std", "nc1_quotient", "norm_cov", "log_norm_std"):
        assert after[key] == pytest.approx(before[key], rel=1e-9), key
    assert after["trace_within"] == pytest.approx(3.7**2 * before["trace_within"], rel=1e-9)


def test_a_collapsed_model_reaches_the_ideals():
    classes = 5
    simplex = torch.eye(classes, dtype=torch.float64) - 1 / classes
    stats = ClassStatistics(classes, classes, dtype=torch.float64)
    stats.update(simplex.repeat(3, 1), torch.arange(classes).repeat(3))
    report = neural_collapse(stats, 2 * simplex)
    assert report["nc1_quotient"] == pytest.approx(0, abs=1e-15)
    assert report["nc3_mean"] == pytest.approx(1)
    assert report["nc3_distance"] == pytest.approx(0, abs=1e-7)
    assert report["unc3_std"] == pytest.approx(0, abs=1e-12)
    assert report["norm_cov"] == pytest.approx(0, abs=1e-12)


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
    for value, key in ((v, k) for k, v in headless.items()):
        assert math.isfinite(value) != (key in headless.notes)


def test_equal_means_have_no_quotient():
    stats = ClassStatistics(2, 1)
    stats.update(torch.tensor([[1.0], [1.0]]), torch.tensor([0, 1]))
    assert neural_collapse(stats).notes["nc1_quotient"] == "all class means are equal"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"center": "mean"}, ValueError, "center is 'mean'"),
        ({"preset": "paper"}, ValueError, "preset is 'paper'"),
        ({"classes": []}, DataError, "classes is empty"),
        ({"classes": [7]}, DataError, r"ids in \[0, 7\)"),
        ({"head_weight": torch.zeros(6, 8)}, ValueError, r"\(6, 8\)"),
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
    assert report.settings == {"center": "classes", "preset": "ncfast"}


def test_to_frame():
    stats, head = golden()
    frame = neural_collapse(stats, head).to_frame()
    assert frame.set_index("metric").loc["classes", "value"] == 4
