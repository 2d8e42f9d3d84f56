"""The Riesz energy of class means: by hand, of few classes, and wherever a metric is named."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ncfast import ClassStatistics, neural_collapse
from ncfast.catalogue import METRICS
from ncfast.integrations.metric_keys import checked_keys
from ncfast.known_points import Known
from ncfast.metrics.pair_functions import PairFunction, Plan
from ncfast.metrics.pairs import Pairs

KEY = "riesz_log_mean"


def measured(means: Tensor, labels: Tensor | None = None, **options):
    """Return the report of classes of one token each, at these points."""
    stats = ClassStatistics(len(means), means.shape[1], dtype=means.dtype)
    stats.update(means, torch.arange(len(means)) if labels is None else labels)
    return neural_collapse(stats, center="none", **options)


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_by_hand(scale):
    # Unit vectors at right angles and opposite: squared distances 2, 2 and 4, s = 4 - 2.
    means = torch.tensor([[3.0, 0, 0, 0], [0, 5.0, 0, 0], [-2.0, 0, 0, 0]]) * scale
    assert measured(means)[KEY] == pytest.approx(math.log((1 / 2 + 1 / 2 + 1 / 4) / 3), rel=1e-6)


def test_a_simplex_of_real_width_stays_finite():
    means = torch.eye(64, 768, dtype=torch.float64)
    assert measured(means)[KEY] == pytest.approx(-766 / 2 * math.log(2), rel=1e-12)
    # Two of them all but coincide: one pair of 2,016 is all of the energy.
    means[1] = means[0] + 1e-4 * means[2]
    gap = 2 - 2 / math.sqrt(1 + 1e-8)
    expected = -766 / 2 * math.log(gap) - math.log(64 * 63 / 2)
    assert measured(means)[KEY] == pytest.approx(expected, rel=1e-9)


def test_empty_classes_ignored_tokens_and_coincident_means():
    generator = torch.Generator().manual_seed(3)
    means = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    whole = measured(means)[KEY]
    # A class without a token, and tokens that are ignored, change nothing.
    stats = ClassStatistics(9, 5, dtype=torch.float64)
    x = torch.cat([means, torch.full((2, 5), 7.0).double()])
    stats.update(x, torch.tensor([0, 2, 3, 5, 6, 8, -100, -100]))
    assert neural_collapse(stats, center="none")[KEY] == whole
    # One direction twice is a pair without an energy, which is said.
    twice = measured(torch.cat([means, 2 * means[:1]]))
    assert math.isfinite(twice[KEY])
    assert "1 coincident pairs are left out" in twice.notes[KEY]
    assert math.isnan(measured(means[:1].expand(3, -1))[KEY])
    assert math.isnan(measured(means[:1])[KEY])
    assert measured(means[:1]).notes[KEY] == "needs two classes"


@pytest.mark.parametrize("width", [1, 2])
def test_narrow_features_have_none(width):
    report = measured(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 1.0]])[:, :width])
    assert math.isnan(report[KEY])
    assert f"its power D - 2 is {width - 2}; expected at least 1" in report.notes[KEY]


def test_one_entry_names_it_everywhere():
    assert METRICS[KEY].family == "NC2"
    assert KEY in checked_keys(None, False)
    assert "riesz_log_mean" in neural_collapse.__doc__


def test_pairs_that_may_be_equal_decide_nothing():
    # The nearest pair is all of an energy: one that rounding explains would be all noise.
    points = torch.tensor([[1.0, 0, 0, 0], [1.0, 1e-9, 0, 0], [0, 1.0, 0, 0], [0, 0, 2.0, 0]])
    points, index, spread = points.double(), torch.arange(4), torch.zeros(4).double()
    function = PairFunction("riesz", 2)
    known = Known(torch.full((4,), 1e-8).double())
    (exact,) = Pairs(points, index, spread, None).visit([function], Plan())
    (found,) = Pairs(points, index, spread, None, known).visit([function], Plan())
    assert exact.mean == pytest.approx(-2 * math.log(1e-9) - math.log(6), rel=1e-6)
    assert (found.pairs, found.coincident, found.rounded) == (5, 1, 1)
    assert found.mean == pytest.approx(-math.log(2), rel=1e-8)  # five pairs at right angles
    assert math.isnan(found.std)
    far = Known(torch.full((4,), 5.0).double())
    (none,) = Pairs(points, index, spread, None, far).visit([function], Plan())
    assert (none.pairs, none.coincident) == (0, 6)
    assert math.isnan(none.mean)
