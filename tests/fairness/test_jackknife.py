"""Intervals of effect sizes, by leaving units out on a stable scale."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t

from ncfast.fairness.benchmarks.seat import Seat
from ncfast.fairness.benchmarks.seat_statistics import effect_size, stable_effect_size
from ncfast.fairness.inference import estimate
from ncfast.fairness.records import Record


def scores(one, two, words=None):
    """Return SEAT's effect size of associations of two groups, as the benchmark makes it."""
    names = words or [f"w{n}" for n in range(len(one) + len(two))]
    records = [
        Record(
            f"t/{n}",
            "cls",
            ("t",),
            names[n],
            {"association": float(value)},
            labels={"target": "targ1" if n < len(one) else "targ2"},
        )
        for n, value in enumerate([*one, *two])
    ]
    return Seat().statistics(records)[0]


def hedges(one, two):
    """Return asinh(g / sqrt 8) of two lists of numbers, by loops."""
    averages = [sum(x) / len(x) for x in (one, two)]
    within = sum((v - m) ** 2 for x, m in zip((one, two), averages, strict=True) for v in x)
    g = (averages[0] - averages[1]) / math.sqrt(within / (len(one) + len(two) - 2))
    return math.asinh(g / math.sqrt(8))


def test_the_interval_of_an_effect_size_by_hand():
    one, two = [0.9, 0.2, 1.4, 0.6], [0.1, -0.3, 0.5, -0.9, -0.2]
    z = hedges(one, two)
    left = [
        [hedges(one[:i] + one[i + 1 :], two) for i in range(4)],
        [hedges(one, two[:i] + two[i + 1 :]) for i in range(5)],
    ]
    v = [(len(x) - 1) / len(x) * sum((a - sum(x) / len(x)) ** 2 for a in x) for x in left]
    bias = sum((len(x) - 1) * (sum(x) / len(x) - z) for x in left)
    freedom = sum(v) ** 2 / (v[0] ** 2 / 3 + v[1] ** 2 / 4)
    beyond = t.ppf(0.975, freedom) * math.sqrt(sum(v))
    stable = stable_effect_size(np.array(one + two), np.arange(9) < 4)
    found = estimate(scores(one, two))
    assert found.low == pytest.approx(stable.restore(z - bias - beyond))
    assert found.high == pytest.approx(stable.restore(z - bias + beyond))
    spans = [stable.restore(z + sign * math.sqrt(sum(v))) for sign in (-1, 1)]
    assert found.standard_error == pytest.approx((spans[1] - spans[0]) / 2)
    assert found.clusters == 9


@pytest.mark.parametrize("sizes", [(4, 4), (3, 9)])
def test_the_way_back_is_the_score(sizes):
    first = np.arange(sum(sizes)) < sizes[0]
    for seed in range(5):
        s = np.random.default_rng(seed).normal(size=sum(sizes)) + seed * first
        stable, ones = stable_effect_size(s, first), np.ones((1, len(s)))
        assert stable.restore(float(stable.value(ones)[0])) == pytest.approx(
            float(effect_size(s, first)(ones)[0])
        )
        low, high = (stable.restore(z) for z in (-1.0, 1.0))
        assert -2 < low < 0 < high < 2
        assert low == pytest.approx(-high)


@pytest.mark.parametrize("distance", [1.5, 3.3])
@pytest.mark.parametrize("words", [5, 8])
def test_effects_of_few_words_hold_as_often_as_said(distance, words):
    # 95 %; resampled words held 1.2 (a distance of 1.5) over 10 words in 88 %.
    truth = distance / math.sqrt(1 + distance**2 / 4)
    random, hits = np.random.default_rng(0), 0
    for _ in range(400):
        found = estimate(scores(random.normal(distance, 1, words), random.normal(0, 1, words)))
        hits += found.low <= truth <= found.high
    assert hits / 400 >= 0.93


def test_sentences_of_a_word_are_left_out_together():
    random = np.random.default_rng(0)
    one, two = random.normal(1, 1, 6), random.normal(0, 1, 6)
    words = [f"w{n}" for n in range(12)]
    alone = estimate(scores(one, two, words))
    twice = estimate(
        scores(np.repeat(one, 4), np.repeat(two, 4), [w for w in words for _ in "abcd"])
    )
    assert twice.clusters == 12
    # Copies say nothing new: as sentences of their own they would halve the interval.
    assert twice.high - twice.low == pytest.approx(alone.high - alone.low, rel=0.15)


def test_no_effect_has_no_headroom_and_a_large_one_has():
    values = np.random.default_rng(0).normal(size=8)
    assert estimate(scores(values + 0.2, values)).headroom is False
    assert estimate(scores(values + 3, values)).headroom is True


@pytest.mark.parametrize("words", ["aaaabbbb", "aaaabbcd", "aabbcccc"])
def test_sentences_alone_say_nothing_of_other_words(words):
    # Four sentences of one word a side, or of one side: of another word nothing is known.
    random = np.random.default_rng(0)
    found = estimate(scores(random.normal(1, 1, 4), random.normal(0, 1, 4), list(words)))
    assert math.isfinite(found.value)
    assert (found.low, found.high, found.headroom) == (None, None, None)


def test_sentences_without_one_of_two_words_give_no_interval():
    # Without "a" all that is left within is alike: no spread.
    found = estimate(scores([1.0, 2.0, 3.0, 3.0], [0.5] * 4, list("aabbccdd")))
    assert math.isfinite(found.value)
    assert (found.low, found.high) == (None, None)


def test_an_effect_of_several_sentences_a_word_holds_as_often_as_said():
    random, hits, truth = np.random.default_rng(0), 0, 1.5 / math.sqrt(1 + 1.5**2 / 4)
    words = [f"w{n // 4}" for n in range(64)]
    for _ in range(200):
        of_words = np.repeat(random.normal(0, 0.8**0.5, 16), 4)
        s = of_words + random.normal(0, 0.2**0.5, 64) + 1.5 * (np.arange(64) < 32)
        found = estimate(scores(s[:32], s[32:], words))
        hits += found.low <= truth <= found.high
    assert 0.9 <= hits / 200 <= 0.995


@pytest.mark.parametrize(
    ("one", "two"),
    [([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]), ([1.0], [0.0]), ([1.0, 0.0], [0.5, 0.5])],
    ids=["all alike within", "one of each", "alike without one"],
)
def test_what_leaves_nothing_to_vary_has_no_interval(one, two):
    found = estimate(scores(one, two))
    assert math.isfinite(found.value)
    assert (found.low, found.high, found.headroom) == (None, None, None)
