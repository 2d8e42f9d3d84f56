"""The statistics of an experiment against numbers worked by hand and against scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ncfast.experiment.inference import (
    crossed_interval,
    equivalence,
    holm,
    minimal_detectable_effect,
    sign_flip,
    sign_flip_floor,
)


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


def test_crossed_interval_by_hand() -> None:
    # Seeds 1 and 3: A = 2 / 2 = 1. Draws (0, 2) and (4, 0): means 2 and 1, so B = k / 2 = 1; each
    # seed's variance is 2 and 8, so that k 5 = 10 and E = (10 - 1) / 1 = 9; at least A or B counts.
    values, drawn = [1.0, 3.0], np.array([[0.0, 2.0], [4.0, 0.0]])
    low, high = crossed_interval(values, drawn, 4.0, 2.0)  # type: ignore[misc]
    from scipy.stats import t

    # By Satterthwaite's formula f = 1 / (1 / 1 + 1 / 4 + 81 / 4) = 0.05; 1 = min(S - 1, g) is left.
    assert (low, high) == pytest.approx((2 - t.ppf(0.975, 1), 2 + t.ppf(0.975, 1)))
    # Seeds 0 and 4: A = 8 / 2 = 4. Draws (0, 1) and (0, 3): means 0 and 2, B = 2; variances 0.5 and
    # 4.5, so that E = 2.5 - 2 = 0.5, and the variance is 5.5.
    low, high = crossed_interval([0.0, 4.0], np.array([[0.0, 1.0], [0.0, 3.0]]), 4.0)  # type: ignore[misc]
    f = 5.5**2 / (4**2 / 1 + 2**2 / 4 + 0.5**2 / 4)
    assert f > 1
    assert high - 2 == pytest.approx(float(t.ppf(0.975, f)) * math.sqrt(5.5))
    # Of three seeds A = 1, and B = E = 0.5 of 10 clusters: the formula has 1.85, and S - 1 is left.
    values, drawn = [0.0, 3.0**0.5, -(3.0**0.5)], np.array([[0, 1.0], [0, 1.0], [0, 1.0]])
    drawn += np.array([[0, 1.0], [0, -1.0], [0, 0.0]]) * 3**0.5
    low, high = crossed_interval(values, drawn, 9.0)  # type: ignore[misc]
    assert high == pytest.approx(float(t.ppf(0.975, 2)))


@pytest.mark.parametrize("clusters", [2, 40])
def test_two_seeds_have_one_degree_of_freedom_at_least(clusters) -> None:
    # What seeds and clusters do together, estimated of two seeds, outgrows all else by noise.
    generator, widest = np.random.default_rng(0), 0.0
    for _ in range(100):
        drawn = generator.normal(0, 1, (2, clusters)) @ generator.normal(0, 1, (clusters, 50))
        values = [float(x) for x in generator.normal(0, 1, 2)]
        low, high = crossed_interval(values, drawn, clusters - 1.0)  # type: ignore[misc]
        most = max(np.var(values, ddof=1) / 2 + drawn.mean(0).var(ddof=1), 1e-9)
        widest = max(widest, (high - low) / 2 / most**0.5)
    assert widest <= 12.71  # Student's quantile of one degree of freedom


def test_crossed_interval_is_students_where_one_source_varies() -> None:
    generator = np.random.default_rng(1)
    items = generator.normal(0, 1, (1, 20_000)).repeat(8, 0)  # the same draw of items in all seeds
    low, high = crossed_interval([0.0] * 8, items, 1e9)  # type: ignore[misc]
    assert (low, high) == pytest.approx((-1.96, 1.96), abs=0.06)
    low, high = crossed_interval([0.0] * 8, items, 9.0, 10 / 9)  # type: ignore[misc]
    assert high == pytest.approx(2.262 * math.sqrt(10 / 9), abs=0.06)
    seeds = np.linspace(-1, 1, 8)
    student = 2.365 * seeds.std(ddof=1) / math.sqrt(8)
    for drawn in (None, seeds[:, None].repeat(10, 1)):
        found = crossed_interval(list(seeds), drawn, 1e9)
        assert found == pytest.approx((-student, student), abs=1e-3)
    assert crossed_interval([1.0]) is None
    assert crossed_interval([1.0, math.nan]) is None
    assert crossed_interval([1.0, 2.0], np.full((2, 5), np.nan)) is None


@pytest.mark.parametrize(("seeds_sd", "both_sd"), [(0.0, 0.0), (0.5, 0.0), (0.5, 1.5), (2.0, 1.0)])
def test_crossed_interval_holds_the_true_mean_as_often_as_it_says(seeds_sd, both_sd) -> None:
    # Eight seeds of a gap of ten clusters a side: percentiles of both resampled hold it in 92 to
    # 100 % of cases.
    generator = np.random.default_rng([4, int(10 * seeds_sd), int(10 * both_sd)])
    held, cases, sign = 0, 400, np.repeat([0.1, -0.1], 10)
    for _ in range(cases):
        parts = generator.normal(0, 1, 20) + generator.normal(0, both_sd, (8, 20))
        each = parts + 5 * sign * generator.normal(0, seeds_sd, (8, 1))
        draws = [generator.multinomial(10, np.full(10, 0.1), 200) for _ in "ab"]
        drawn = each @ (np.concatenate(draws, 1) * sign).T
        low, high = crossed_interval(list(each @ sign), drawn, 18.0, 10 / 9)  # type: ignore[misc]
        held += low <= 0 <= high
    assert 0.92 < held / cases < 0.985


@pytest.mark.parametrize("given", [[1.0], [1.0, math.nan], [[1.0, 2.0]]])
def test_bad_differences_are_rejected(given: list[float]) -> None:
    with pytest.raises(ValueError, match="sign_flip: differences"):
        sign_flip(given)
    with pytest.raises(ValueError, match="equivalence: differences"):
        equivalence(given, 1.0)
    with pytest.raises(ValueError, match="margin is 0"):
        equivalence([1.0, 2.0], 0)
