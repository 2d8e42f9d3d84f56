"""The statistics of an experiment against numbers worked by hand and against scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ncfast.experiment.endpoints import SEED
from ncfast.experiment.inference import (
    _seed_counts,
    crossed_interval,
    equivalence,
    holm,
    minimal_detectable_effect,
    sign_flip,
    sign_flip_floor,
)
from ncfast.fairness.resampling import cluster_weights
from ncfast.fairness.statistic import Statistic, mean


def test_sign_flip_by_hand() -> None:
    # |1 + 2 - 4| = 1; sums of (+-1, +-2, +-4): 7, 5, 3, 1 and their negatives: all reach 1.
    assert sign_flip([1, 2, -4]) == 1.0
    # |1 + 2 + 4| = 7 is reached by +++ and --- alone; 5 by four of the eight.
    assert sign_flip([1, 2, 4]) == 0.25
    assert sign_flip([-1, 2, 4]) == 0.5
    assert sign_flip([0, 0, 0]) == 1.0


def test_sign_flip_counts_ties_that_rounding_would_part() -> None:
    # 0.1 + 0.2 - 0.3 and its flips are 0 or not by rounding alone.
    assert sign_flip([0.1, 0.2, -0.3]) == sign_flip([1, 2, -3]) == 1.0
    assert sign_flip([0.1] * 8) == 2 / 256


def test_sign_flip_is_the_definition_and_scipys() -> None:
    from scipy.stats import permutation_test

    values = np.random.default_rng(0).normal(0.4, 1, 7)
    signs = np.array(list(itertools.product([1, -1], repeat=7)))
    mine = sign_flip(values)
    assert mine == (abs(signs @ values) >= abs(values.sum()) - 1e-12).mean()
    theirs = permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    assert mine == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize(("seeds", "floor"), [(3, 0.25), (5, 0.0625), (6, 0.03125), (8, 2 / 256)])
def test_floor_of_few_seeds(seeds: int, floor: float) -> None:
    assert sign_flip_floor(seeds) == floor == sign_flip(list(range(1, seeds + 1)))


def test_holm_by_hand() -> None:
    # .01 x 4 = .04; .02 x 3 = .06; .03 x 2 = .06; .04 x 1 = .04, raised to .06 before it.
    found = holm({"d": 0.04, "a": 0.01, "c": 0.03, "b": 0.02})
    assert list(found) == ["d", "a", "c", "b"]
    assert found == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.06})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_equivalence_by_hand() -> None:
    # mean 0, sd sqrt(5/24), se sqrt(5/96) = 0.228218: t = 1 / 0.228218 = 4.38178 with 3 degrees.
    from scipy.stats import t

    found = equivalence([0.5, -0.5, 0.25, -0.25], 1.0)
    assert found.p_low == pytest.approx(float(t.sf(4.38178, 3)), rel=1e-5)
    assert found.p_high == pytest.approx(found.p_low)
    # A cost of two margins is no equivalence, and the side says which way.
    worse = equivalence([2.1, 1.9, 2.0, 2.05], 1.0)
    assert worse.p_high > 0.99
    assert worse.p_low < 0.001
    assert worse.p_value == worse.p_high
    assert equivalence([0.2, 0.2], 0.1).p_value == 1.0
    assert equivalence([0.05, 0.05], 0.1).p_value == 0.0


@pytest.mark.parametrize(
    ("seeds", "five", "first_of_four"),  # fairness.md 7: MDE at .05 and .0125
    [(3, 3.26, 6.55), (5, 1.68, 2.48), (8, 1.16, 1.53), (10, 1.00, 1.28)],
)
def test_minimal_detectable_effects(seeds: int, five: float, first_of_four: float) -> None:
    assert minimal_detectable_effect(seeds) == pytest.approx(five, abs=0.006)
    assert minimal_detectable_effect(seeds, 0.0125) == pytest.approx(first_of_four, abs=0.006)


def test_crossed_interval_holds_both_sources() -> None:
    generator = np.random.default_rng(1)
    items = generator.normal(0, 1, (1, 20_000)).repeat(8, 0)  # the same draw of items in all seeds
    seeds = np.linspace(-1, 1, 8)[:, None]
    low, high = crossed_interval(items + 0 * seeds)  # type: ignore[misc]
    assert (low, high) == pytest.approx((-1.96, 1.96), abs=0.06)
    student = 2.365 * seeds.std(ddof=1) / math.sqrt(8)  # half of a t-interval of eight
    low, high = crossed_interval(0 * items + seeds)  # type: ignore[misc]
    assert (-low, high) == pytest.approx((student, student), abs=0.04)
    low, high = crossed_interval(items + seeds)  # type: ignore[misc]
    assert high == pytest.approx(math.hypot(1.96, student), abs=0.08)


def test_seeds_are_drawn_apart_from_clusters() -> None:
    eight = [str(n) for n in range(8)]
    items = Statistic("s", "v", "m", mean(np.zeros(8)), eight, eight)
    clusters = next(cluster_weights(items, 200, SEED))
    seeds = _seed_counts(8, 200, 0)
    assert np.abs(np.corrcoef(seeds.T, clusters.T)[:8, 8:]).max() < 0.5


def test_crossed_interval_holds_the_true_mean_as_often_as_it_says() -> None:
    # Percentiles of eight resampled seeds hold it in 89 % of cases.
    generator = np.random.default_rng(3)
    held = 0
    for case in range(400):
        drawn = generator.standard_normal(8)[:, None].repeat(500, 1)
        low, high = crossed_interval(drawn, case)  # type: ignore[misc]
        held += low <= 0 <= high
    assert 0.92 < held / 400 < 0.98


@pytest.mark.parametrize("given", [[1.0], [1.0, math.nan], [[1.0, 2.0]]])
def test_bad_differences_are_rejected(given: list[float]) -> None:
    with pytest.raises(ValueError, match="sign_flip: differences"):
        sign_flip(given)
    with pytest.raises(ValueError, match="equivalence: differences"):
        equivalence(given, 1.0)
    with pytest.raises(ValueError, match="margin is 0"):
        equivalence([1.0, 2.0], 0)
