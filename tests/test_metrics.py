"""neural_collapse(): the golden table, the invariants, and independent float64 computations."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import ncfast.functional as F
from ncfast import ClassStatistics, DataError, NearestCenterAgreement, neural_collapse

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


def moments(values: list[float]) -> tuple[float, float]:
    """Return mean and Bessel-corrected std."""
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def unit(v: Tensor) -> Tensor:
    return v / v.norm()


def structure_error(left: list[Tensor], right: list[Tensor]) -> float:
    """Return the distance of the matrix of products, scaled to 1, from the simplex's."""
    k = len(left)
    products = torch.stack([torch.stack([a @ b for b in right]) for a in left])
    simplex = (torch.eye(k).double() - 1 / k) / math.sqrt(k - 1)
    return float((products / products.norm() - simplex).norm())


class Independent:
    """Compute every key class by class and pair by pair in float64, from tokens alone."""

    def __init__(self, x: Tensor, y: Tensor, head: Tensor, chosen, center: str, everyone) -> None:
        self.x, self.y, self.chosen = x.double(), y, chosen
        self.means = {c: self.x[y == c].mean(0) for c in everyone}
        self.sizes = {c: int((y == c).sum()) for c in everyone}
        self.rows = [head[c].double() for c in chosen]
        self.tokens = sum(self.sizes[c] for c in chosen)
        self.middle = {
            "classes": sum(self.means[c] for c in chosen) / len(chosen),
            "tokens": sum(self.sizes[c] * self.means[c] for c in chosen) / self.tokens,
            "all": sum(self.means[c] for c in everyone) / len(everyone),
            "none": torch.zeros(x.shape[1]).double(),
        }[center]
        self.centred = [self.means[c] - self.middle for c in chosen]
        self.spread = {
            c: sum(float((v - self.means[c]) @ (v - self.means[c])) for v in self.x[y == c])
            for c in chosen
        }

    def over_pairs(self, function) -> tuple[float, float]:
        return moments([function(a, b) for a, b in itertools.combinations(range(self.k), 2)])

    @property
    def k(self) -> int:
        return len(self.chosen)

    def cdnv(self, points: list[Tensor], power: int):
        variance = [self.spread[c] / self.sizes[c] for c in self.chosen]
        return lambda a, b: (
            (variance[a] + variance[b]) / 2 / float((points[a] - points[b]).norm()) ** (2 * power)
        )

    def of_classes(self, norms: str) -> dict[str, float]:
        within = sum(self.spread.values()) / self.tokens
        lengths = [float(m.norm()) for m in self.centred]
        between = sum(n * n for n in lengths) / self.k
        logs = [math.log(n) for n in lengths]
        of = {"plain": lengths, "squared": [n * n for n in lengths], "log": logs}[norms]
        cosines = [float(unit(w) @ unit(m)) for w, m in zip(self.rows, self.centred, strict=True)]
        gaps = [
            float((unit(w) - unit(m)).norm()) for w, m in zip(self.rows, self.centred, strict=True)
        ]
        mean, std = moments(cosines)
        population = math.sqrt((self.k - 1) / self.k)
        return {
            "tokens": self.tokens,
            "classes": self.k,
            "trace_within": within,
            "trace_between": between,
            "nc1_quotient": within / between,
            "norm_mean": moments(of)[0],
            "norm_cov": moments(of)[1] * population / moments(of)[0],
            "log_norm_std": moments(logs)[1],
            "nc3_mean": mean,
            "nc3_distance": moments(gaps)[0],
            "unc3_std": std,
            "unc3_var": std**2,
            "unc3_cov": std * population / mean,
        }

    def of_pairs(self, power: int, log_centred: bool) -> dict[str, float]:
        means = [self.means[c] for c in self.chosen]
        units = [unit(m) for m in self.centred]
        logs = units if log_centred else [unit(m) for m in means]
        target = -1 / (self.k - 1)
        found = {
            "cdnv": self.over_pairs(self.cdnv(means, power)),
            "cdnv2": self.over_pairs(self.cdnv(means, 2)),
            "interference": self.over_pairs(lambda a, b: float(units[a] @ units[b])),
            "log_distance": self.over_pairs(lambda a, b: -math.log((logs[a] - logs[b]).norm())),
        }
        keys = {
            f"{name}_{part}": v
            for name, both in found.items()
            for part, v in zip(MEAN_STD, both, strict=True)
        }
        heads = {"gnc2w_mean": self.rows, "gnc2w_unit_mean": [unit(w) for w in self.rows]}
        keys |= {
            key: self.over_pairs(lambda a, b, w=rows: -math.log((w[a] - w[b]).norm()))[0]
            for key, rows in heads.items()
        }
        return keys | {
            "equiangularity": self.over_pairs(
                lambda a, b: abs(float(units[a] @ units[b]) - target)
            )[0],
            "nc1w_mean": self.over_pairs(self.cdnv(self.rows, 1))[0],
            "nc1w2_mean": self.over_pairs(self.cdnv(self.rows, 2))[0],
        }

    def of_matrices(self, ood_mean: Tensor) -> dict[str, float]:
        width = self.x.shape[1]
        within, between = torch.zeros(2, width, width).double()
        for c in self.chosen:
            for v in self.x[self.y == c]:
                within += torch.outer(v - self.means[c], v - self.means[c]) / self.tokens
        for m in self.centred:
            between += torch.outer(m, m) / self.k
        u, s, vt = torch.linalg.svd(between)
        leading = min(self.k - 1, width)
        inverse = vt[:leading].T @ torch.diag(1 / s[:leading]) @ u[:, :leading].T
        return {
            "nc1_pinv": float((torch.linalg.pinv(between, rtol=1e-12) @ within).trace()) / self.k,
            "nc1_svd": float((inverse @ within).trace()) / self.k,
            "etf_error": structure_error(self.centred, self.centred),
            "self_duality_error": structure_error(self.rows, self.centred),
            "nc5_mean": sum(abs(float(unit(m) @ unit(ood_mean.double()))) for m in self.centred)
            / self.k,
        }


CONVENTIONS = {
    "ncfast": ("plain", 1, True),
    "linguistic-collapse": ("log", 2, True),
    "official": ("squared", 2, False),
}


@pytest.mark.parametrize("preset", CONVENTIONS)
@pytest.mark.parametrize("center", ["classes", "tokens", "all", "none"])
@pytest.mark.parametrize("classes", [None, [9, 2, 5, 7]])
@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("width", [4, 7, 15])
def test_every_key_against_an_independent_computation(center, classes, compact, preset, width):
    """Widths 4, 7 and 15: K > D + 1, both sides for sets of four and more, and K <= D + 1."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(120, width, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 12, (120,), generator=generator)
    y[y == 3] = 4
    x = x + torch.randn(12, width, generator=generator, dtype=torch.float64)[y]
    head = torch.randn(12, width, generator=generator, dtype=torch.float64)
    kept = [2, 5, 7, 8, 9] if compact else None
    stats = ClassStatistics(
        12, width, kept, scatter={"all": None, "some": [2, 5, 7, 9]}, dtype=torch.float64
    )
    stats.update(x, y)
    everyone = kept or [c for c in range(12) if c != 3]
    if compact and center == "all":
        with pytest.raises(DataError, match="keeps 5 of 12"):
            neural_collapse(stats, head, classes, center)
        return
    report = neural_collapse(stats, head, classes, center, preset, ood_mean=x[0])
    brute = Independent(x, y, head, sorted(classes or everyone), center, everyone)
    norms, power, log_centred = CONVENTIONS[preset]
    expected = (
        brute.of_classes(norms) | brute.of_pairs(power, log_centred) | brute.of_matrices(x[0])
    )
    assert set(report) == set(expected)
    for key, value in expected.items():
        assert report[key] == pytest.approx(value, rel=1e-9), key
    assert set(report.notes) == {"nc1_pinv", "nc1_svd"}
    rank = min(int(torch.linalg.matrix_rank(torch.stack(brute.centred))), width)
    assert f"rank {rank} of {width}" in report.notes["nc1_pinv"]


def test_keys_come_in_their_order():
    stats, head = golden()
    keys = list(neural_collapse(stats, head, ood_mean=head[0]))
    assert keys[:4] == ["tokens", "classes", "cdnv_mean", "cdnv_std"]
    assert keys[-2:] == ["gnc2w_unit_mean", "nc5_mean"]
    assert len(keys) == len(set(keys)) == 31


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
    assert report.settings == {"center": "classes", "preset": "ncfast", "pairs": "all"}


def test_to_frame():
    stats, head = golden()
    frame = neural_collapse(stats, head).to_frame()
    assert frame.set_index("metric").loc["classes", "value"] == 4
