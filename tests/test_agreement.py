"""NC4 as a second pass: against distances and scores written out, per class, in parts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import ncfast
from ncfast import ClassStatistics, DataError, NearestCenterAgreement, agreement, neural_collapse

V, D = 17, 6


def problem(classes: list[int] | None = None) -> tuple[ClassStatistics, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    y = torch.randint(0, V - 2, (120,), generator=generator)
    y[y == 4] = 5  # 4, 15 and 16 never occur
    head = torch.randn(V, D, generator=generator)
    x = 0.7 * head[y] + torch.randn(120, D, generator=generator)
    stats = ClassStatistics(V, D, classes=classes)
    stats.update(x, y)
    return stats, head, torch.randn(V, generator=generator)


def held_out(n: int = 300) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(8)
    y = torch.randint(0, V, (n,), generator=generator)
    y[::7] = -100
    return torch.randn(n, D, generator=generator), y


def written_out(stats, head, bias, x, y) -> tuple[Tensor, Tensor]:
    """Return hits and totals per class, one token and one class at a time, in float64."""
    hits, totals = torch.zeros(2, V, dtype=torch.int64)
    ids = stats.class_ids.tolist()
    present = [slot for slot in range(len(ids)) if stats.counts[slot] > 0]
    for token, label in zip(x.double(), y.tolist(), strict=True):
        if label == -100:
            continue
        far = {ids[s]: float((token - stats.means[s].double()).norm()) for s in present}
        score = {ids[s]: float(token @ head[ids[s]].double() + bias[ids[s]]) for s in present}
        totals[label] += 1
        hits[label] += min(far, key=far.get) == max(score, key=score.get)
    return hits, totals


@pytest.mark.parametrize("classes", [None, [1, 3, 4, 8, 9, 12]])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_against_distances_and_scores(classes, biased, backend, monkeypatch):
    monkeypatch.setattr(agreement, "_TOKENS", 32)
    stats, head, bias = problem(classes)
    x, y = held_out()
    found = NearestCenterAgreement(stats, head, bias if biased else None)
    with ncfast.use_backend(backend):
        found.update(x[:111].reshape(37, 3, D), y[:111].reshape(37, 3))
        found.update(x[111:], y[111:])
    hits, totals = written_out(stats, head, bias if biased else torch.zeros(V), x, y)
    assert torch.equal(found.hits, hits)
    assert torch.equal(found.totals, totals)
    assert 0 < int(hits.sum()) < int(totals.sum())
    assert found.compute() == int(hits.sum()) / int(totals.sum())
    # Labels that never occurred in the statistics are tokens like others.
    assert found.compute([15, 2, 2]) == int(hits[[2, 15]].sum()) / int(totals[[2, 15]].sum())


def test_parts_merge_and_reset():
    stats, head, _ = problem()
    x, y = held_out()
    whole = NearestCenterAgreement(stats, head)
    assert math.isnan(whole.compute())
    whole.update(x, y)
    parts = [NearestCenterAgreement(stats, head) for _ in range(2)]
    parts[0].update(x[:50], y[:50])
    parts[1].update(x[50:], y[50:])
    parts[0].merge(parts[1])
    assert torch.equal(parts[0].hits, whole.hits)
    assert torch.equal(parts[0].totals, whole.totals)
    whole.update(x[:0], y[:0])
    whole.reset()
    assert math.isnan(whole.compute())
    fewer = NearestCenterAgreement(problem([1, 2, 3])[0], head)
    with pytest.raises(DataError, match=r"chooses among 3 classes"):
        whole.merge(fewer)


def test_in_a_report():
    stats, head, _ = problem()
    found = NearestCenterAgreement(stats, head)
    unseen = neural_collapse(stats, head, agreement=found)
    assert unseen.notes["nc4_agreement"] == "no token of these classes was seen"
    found.update(*held_out())
    report = neural_collapse(stats, head, classes=[1, 2, 3], agreement=found)
    assert report["nc4_agreement"] == found.compute([1, 2, 3])
    assert "nc4_agreement" not in neural_collapse(stats, head)


def test_a_collapsed_model_agrees_with_itself():
    corners = torch.eye(5) - 0.2
    stats = ClassStatistics(5, 5)
    stats.update(corners, torch.arange(5))
    found = NearestCenterAgreement(stats, 2 * corners)
    found.update(corners, torch.arange(5))
    assert found.compute() == 1


def test_what_is_refused_changes_nothing():
    stats, head, bias = problem()
    found = NearestCenterAgreement(stats, head)
    x, y = held_out(40)
    broken = x.clone()
    broken[39] = math.nan
    y[39] = 1
    labels = y.clone()
    labels[2] = V
    for arguments, error, message in (
        ((x[:, :5], y), ValueError, "expected"),
        ((x, y.float()), TypeError, "int64"),
        ((x, labels), DataError, r"y\[2\] is 17"),
        ((broken, y), DataError, "nan"),
    ):
        with pytest.raises(error, match=message):
            found.update(*arguments)
    assert not found.totals.any()
    with pytest.raises(DataError, match="holds 17"):
        found.compute([3, 17])
    with pytest.raises(ValueError, match=r"head_bias is \(16,\)"):
        NearestCenterAgreement(stats, head, bias[1:])
    with pytest.raises(DataError, match="no class occurred"):
        NearestCenterAgreement(ClassStatistics(V, D), head)
    stats.update(x, y)
    with pytest.raises(DataError, match="same class means throughout"):
        found.update(x, y)
