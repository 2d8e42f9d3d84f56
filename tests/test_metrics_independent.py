"""Every key of neural_collapse() against a computation in float64 that shares no code with it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from ncfast import ClassStatistics, DataError, neural_collapse

MEAN_STD = ("mean", "std")


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
        power = self.x.shape[1] - 2
        energy = self.over_pairs(lambda a, b: float((units[a] - units[b]).norm()) ** -power)[0]
        return keys | {
            "riesz_log_mean": math.log(energy),
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
            "rank_between": (rank := int(torch.linalg.matrix_rank(between, rtol=1e-12))),
            "rank_dropped": width - rank,
            "pairs_left_out": 0,
            "means_at_center": 0,
        }


MARGINS = ("rank_kept_margin", "rank_dropped_margin")  # of rounding, which no exact sum has
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
    assert set(report) == {*expected, *MARGINS}
    assert report["rank_kept_margin"] > 1e10
    assert 0 <= report["rank_dropped_margin"] < 1
    for key, value in expected.items():
        assert report[key] == pytest.approx(value, rel=1e-9), key
    assert set(report.notes) == {"nc1_pinv", "nc1_svd"}
    rank = min(int(torch.linalg.matrix_rank(torch.stack(brute.centred))), width)
    assert f"rank {rank} of {width}" in report.notes["nc1_pinv"]
