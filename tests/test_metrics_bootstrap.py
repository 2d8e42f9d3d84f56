"""Bootstrap over classes: against drawing classes by hand, and what it leaves out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ncfast import ClassStatistics, neural_collapse
from ncfast.catalogue import METRICS
from ncfast.metrics import bootstrap, bootstrap_intervals, resampled

ALGEBRA = {"nc1_pinv", "nc1_svd", "etf_error", "self_duality_error"}
ALGEBRA |= {"riesz_log_mean"}  # decided by the nearest pairs, which most repeats lack
ALGEBRA |= {key for key, metric in METRICS.items() if metric.aside}


def some_statistics(classes: int = 40, width: int = 6) -> tuple[ClassStatistics, Tensor]:
    generator = torch.Generator().manual_seed(11)
    y = torch.randint(0, classes, (classes * 8,), generator=generator)
    means = torch.randn(classes, width, generator=generator) + 0.5
    x = means[y] + torch.randn(len(y), width, generator=generator)
    stats = ClassStatistics(classes, width, dtype=torch.float64)
    stats.update(x, y)
    return stats, torch.randn(classes, width, generator=generator, dtype=torch.float64)


def drawn_report(stats: ClassStatistics, head: Tensor, times: Tensor, **options) -> dict:
    """Return the metrics of a state in which every class stands as often as it was drawn."""
    index = torch.repeat_interleave(torch.arange(len(times)), times)
    copies = ClassStatistics(len(index), stats.dim, dtype=torch.float64)
    copies.counts, copies.means = stats.counts[index], stats.means[index]
    copies.m2 = stats.m2[index]
    return neural_collapse(copies, head[index], **options).to_dict()


def without_copies(report: dict, pairs: int, copies: int) -> dict:
    """Take the cosines of a class with its own copy, which are 1 and no pairs, out again."""
    mean, std = report["interference_mean"], report["interference_std"]
    kept = pairs - copies
    total = mean * pairs - copies
    squares = std**2 * (pairs - 1) + mean**2 * pairs - copies
    return {
        "interference_mean": total / kept,
        "interference_std": math.sqrt((squares - total**2 / kept) / (kept - 1)),
        "equiangularity": (report["equiangularity"] * pairs - copies * 40 / 39) / kept,
    }


@pytest.mark.parametrize("center", ["classes", "tokens", "none"])
@pytest.mark.parametrize("preset", ["ncfast", "official"])
def test_every_repeat_is_the_metric_of_the_draw(center, preset, monkeypatch):
    stats, head = some_statistics()
    samples = {}
    monkeypatch.setattr(bootstrap, "intervals_of", lambda found, level: samples.update(found))
    bootstrap_intervals(stats, head, center=center, preset=preset, repeats=3, seed=4)
    draws = next(bootstrap._draws(40, 3, 4, stats.device)).long()
    for repeat, times in enumerate(draws):
        expected = drawn_report(stats, head, times, center=center, preset=preset)
        copies = int((times * (times - 1)).sum()) // 2
        expected |= without_copies(expected, 40 * 39 // 2, copies)
        for key, values in samples.items():
            assert float(values[repeat]) == pytest.approx(expected[key], rel=1e-8), key
    assert set(samples) == set(neural_collapse(stats, head)) - ALGEBRA


def test_cosines_leave_copies_out():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    values = values + values.T
    times = torch.tensor([2.0, 0.0, 1.0, 3.0, 1.0]).double()
    index = torch.repeat_interleave(torch.arange(5), times.long())
    kept = torch.stack(
        [values[a, b] for i, a in enumerate(index) for b in index[i + 1 :] if a != b]
    )
    mean, std = resampled.over_pairs(values, times[None])
    assert float(mean) == pytest.approx(float(kept.mean()), rel=1e-12)
    assert float(std) == pytest.approx(float(kept.std()), rel=1e-12)


@pytest.mark.slow
def test_intervals_hold_the_values_and_narrow_with_more_classes():
    widths = []
    for classes in (40, 640):
        stats, head = some_statistics(classes)
        report = neural_collapse(stats, head)
        found = bootstrap_intervals(stats, head, seed=1)
        for key in ("nc3_mean", "unc3_std", "norm_mean", "trace_between", "cdnv_mean"):
            low, high = found[key]
            assert low < report[key] < high
        widths.append(found["nc3_mean"][1] - found["nc3_mean"][0])
    assert 2.5 < widths[0] / widths[1] < 6.5  # sixteen times the classes: a quarter of the width
    wide = bootstrap_intervals(stats, head, seed=1, level=0.99)["nc3_mean"]
    assert wide[0] < found["nc3_mean"][0] < found["nc3_mean"][1] < wide[1]


def test_the_seed_decides():
    stats, head = some_statistics()
    assert bootstrap_intervals(stats, head, seed=1) == bootstrap_intervals(stats, head, seed=1)
    assert bootstrap_intervals(stats, head, seed=1) != bootstrap_intervals(stats, head, seed=2)


def test_what_is_left_out(monkeypatch):
    stats, head = some_statistics()
    assert "nc3_mean" not in bootstrap_intervals(stats)
    assert "cdnv_mean" in bootstrap_intervals(stats)
    assert bootstrap_intervals(stats, head, classes=[1, 2]) == {}
    monkeypatch.setattr(bootstrap, "PAIRWISE_LIMIT", 39)
    large = bootstrap_intervals(stats, head)
    assert {"nc3_mean", "nc1_quotient"} <= set(large)
    assert not {"cdnv_mean", "log_distance_mean", "nc1w_mean"} & set(large)
    monkeypatch.setattr(bootstrap, "_CELLS", 100)  # several blocks of repeats
    again = bootstrap_intervals(stats, head)
    assert again["nc3_mean"] == pytest.approx(large["nc3_mean"])


def test_bad_arguments():
    stats, head = some_statistics()
    for arguments in ({"repeats": 1}, {"level": 1.0}, {"level": 0.0}):
        with pytest.raises(ValueError, match="repeats is"):
            bootstrap_intervals(stats, head, **arguments)
    assert math.isfinite(bootstrap_intervals(stats, head, repeats=2)["nc3_mean"][0])
