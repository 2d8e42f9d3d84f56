"""WithinClassRegularizer: by its definition, as measured, of rare classes and running means."""

from __future__ import annotations

import pytest
import torch

import ncfast.functional as F
from ncfast import ClassStatistics, neural_collapse
from ncfast.losses import (
    WithinClassRegularizer,
)
from tests.losses.test_terms import CLASSES, D, V, data


@pytest.mark.parametrize("classes", [None, CLASSES])
@pytest.mark.parametrize(("kind", "key"), [("trace", "trace_within"), ("quotient", "nc1_quotient")])
def test_within_is_what_is_measured(classes, kind, key):
    x, y, w = data()
    stats = ClassStatistics(V, D, dtype=torch.float64)
    stats.update(x, y)
    report = neural_collapse(stats, w, classes=classes)
    found = WithinClassRegularizer(V, D, classes, kind=kind)(x, y)
    assert found.item() == pytest.approx(report[key], rel=1e-12)


def test_within_of_rare_classes_left_out():
    """Their tokens are not divided by either."""
    x, y, _ = data()
    counts, _, m2 = F.class_moments(x, y, V)
    least = int(counts.sort().values[-4])
    kept = counts >= least
    assert int(counts[~kept].sum()) > 0
    found = WithinClassRegularizer(V, D, min_count=least)(x, y)
    expected = m2[kept].sum() / counts[kept].sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize("power", [1, 2])
def test_cdnv_by_its_definition(power):
    x, y, _ = data()
    counts, means, m2 = F.class_moments(x, y, V)
    present = [c for c in CLASSES if counts[c]]
    values = []
    for i, a in enumerate(present):
        for b in present[i + 1 :]:
            distance = (means[a] - means[b]).square().sum() ** power
            values.append((m2[a] / counts[a] + m2[b] / counts[b]) / (2 * distance))
    found = WithinClassRegularizer(V, D, CLASSES, kind="cdnv", power=power)(x, y)
    assert found.item() == pytest.approx(torch.stack(values).mean().item(), rel=1e-10)


def test_within_of_running_means_pulls_towards_them():
    x, y, _ = data()
    term = WithinClassRegularizer(V, D, None, means="running").double()
    term(x[:100], y[:100])
    found = term(x[100:], y[100:])
    means = F.class_moments(x, y, V)[1]
    kept = y[100:] >= 0
    expected = (x[100:][kept] - means[y[100:][kept]]).square().sum(1).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
