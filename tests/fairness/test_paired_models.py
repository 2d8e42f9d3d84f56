"""Two models on the same items: intervals of differences, and tests."""

from __future__ import annotations

import numpy as np
import pytest

from ncfast.fairness.benchmarks.perplexity import Perplexity
from ncfast.fairness.benchmarks.stereoset import StereoSet
from ncfast.fairness.inference import compare
from ncfast.fairness.records import Record
from ncfast.fairness.statistic import Statistic
from tests.fairness.test_inference import folded, statistic


def test_distances_of_two_models_are_compared_past_the_turn():
    random = np.random.default_rng(0)
    one, two = (folded(random.permutation(60) < 30) for _ in range(2))
    found = compare(one, two)
    assert found.value == 0
    assert found.low < -5
    assert found.high > 5
    assert (compare(one, one).low, compare(one, one).high) == (0, 0)


def test_distances_differ_by_no_more_than_their_scores():
    one = np.array([1.0, 0.0] * 30)
    two = one.copy()
    two[:2] = 1.0
    plain = compare(statistic(100 * one), statistic(100 * two))
    found = compare(folded(one), folded(two))
    most = max(abs(plain.low), abs(plain.high))
    # Each of them may be 13 from 50, on either side; the same on both sides.
    assert -most - 1e-9 <= found.low <= found.value <= found.high <= most + 1e-9


def test_distances_on_one_side_differ_as_their_scores_do():
    values = np.array([1.0] * 48 + [0.0] * 12), np.array([1.0] * 40 + [0.0] * 5 + [1.0] * 15)
    plain = compare(*(statistic(100 * v) for v in values))
    found = compare(*(folded(v) for v in values))
    assert (found.value, found.low, found.high) == pytest.approx(
        (plain.value, plain.low, plain.high)
    )
    below = compare(*(folded(1 - v) for v in values))
    assert (below.value, below.low, below.high) == pytest.approx(
        (plain.value, plain.low, plain.high)
    )


def test_the_same_model_twice_differs_by_exactly_nothing():
    s = statistic(np.random.default_rng(0).normal(size=50))
    found = compare(s, s)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_paired_intervals_are_narrower_than_two_models_apart():
    base = np.random.default_rng(0).normal(size=200)
    other = base + 0.1 + 0.01 * np.random.default_rng(1).normal(size=200)
    found = compare(statistic(base, effects=base), statistic(other, effects=other))
    assert 0.09 < found.low < found.value < found.high < 0.11
    assert found.p_value < 0.001


def test_mcnemar_by_hand():
    first, second = np.array([0.0] * 9 + [1.0]), np.array([1.0] * 9 + [0.0])
    found = compare(statistic(first, verdicts=first), statistic(second, verdicts=second))
    assert found.changed == 10
    assert found.p_value == pytest.approx(2 * 11 / 2**10)  # 9 or more, or 1 or fewer, of 10


def test_verdicts_of_few_clusters_are_no_independent_items():
    first, second = np.zeros(40), np.ones(40)
    names = ["a"] * 20 + ["b"] * 20
    one, two = (statistic(v, verdicts=v, clusters=names) for v in (first, second))
    found = compare(one, two)
    # McNemar's test of 40 items would say 2e-12; two clusters that go one way are a coin or two.
    assert (found.changed, found.p_value) == (40, 0.5)
    assert found.test == "sign flips of clusters"


def test_a_large_cluster_counts_by_what_it_adds_to_the_score():
    one = np.array([0.0] * 60 + [1.0] * 9)
    names = ["a"] * 60 + [f"b{n}" for n in range(9)]
    first, second = (statistic(v, verdicts=v, clusters=names) for v in (one, 1 - one))
    found = compare(first, second)
    assert found.value == pytest.approx(51 / 69)
    assert found.p_value == 1  # all sums of +-60 and nine +-1 reach 51; of means it was .02
    shares = np.array([1 / 60] * 60 + [1.0] * 9)  # a macro average: clusters count alike
    first, second = (
        statistic(v, verdicts=v, clusters=names, shares=shares) for v in (one, 1 - one)
    )
    assert compare(first, second).p_value == pytest.approx(22 / 2**10)


def test_sign_flips_have_their_floor():
    zero, one = np.zeros(8), np.ones(8)
    found = compare(statistic(zero, effects=zero), statistic(one, effects=one))
    assert found.p_value == pytest.approx(2 / 2**8)
    assert compare(statistic(zero, effects=zero), statistic(zero, effects=zero)).p_value == 1


def test_other_items_are_not_compared():
    with pytest.raises(ValueError, match="different items"):
        compare(statistic(np.zeros(3)), statistic(np.zeros(4)))


def stereoset(values: np.ndarray) -> list[Statistic]:
    """Return the scores of five contexts of one word and one of another."""
    names = ("stereotype", "anti_stereotype", "unrelated")
    records = [
        Record(str(n), "log", ("test.gender",), "ab"[n == 5], dict(zip(names, row, strict=True)))
        for n, row in enumerate(values.reshape(6, 3).tolist())
    ]
    return [s for s in StereoSet().statistics(records) if s.metric in ("lm", "ss")]


def perplexity(values: np.ndarray) -> list[Statistic]:
    """Return the perplexity of lines of 1 to 18 tokens."""
    records = [
        Record(
            str(n),
            "window",
            ("text",),
            str(n),
            {"nll": float(value), "tokens": n + 1.0},
            labels={"ids": ""},
        )
        for n, value in enumerate(np.abs(values))
    ]
    return Perplexity().statistics(records)


@pytest.mark.parametrize("made", [stereoset, perplexity])
def test_signs_are_flipped_of_what_the_score_is_the_mean_of(made):
    values = np.random.default_rng(0).normal(size=(2, 18))
    ones = np.ones((1, len(made(values[0])[0].items)))
    for one, two in zip(*map(made, values), strict=True):
        scores = [float(s.value(ones)[0]) for s in (one, two)]
        if made is perplexity:
            scores = [np.log(score) for score in scores]
        else:
            scores = [score / 100 for score in scores]
        of = (one.effects, two.effects) if one.verdicts is None else (one.verdicts, two.verdicts)
        shares = one.shares / one.shares.sum()
        assert shares @ (of[1] - of[0]) == pytest.approx(scores[1] - scores[0])
        assert np.ptp(shares) > 0
