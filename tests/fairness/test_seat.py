"""SEAT: effect size with ddof 1, exact p-values, pooling that ignores padding."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ncfast.fairness.benchmarks.seat import Seat
from ncfast.fairness.benchmarks.seat_statistics import effect_size, permutation_p_value
from ncfast.fairness.data import DataFolder
from ncfast.fairness.errors import EvaluationError

FIRST = np.array([True, True, False, False])


def test_effect_size_by_hand():
    # fairness.md, bug 7: X (1,0),(.8,.6); Y (0,1),(.6,.8); A (1,0),(.6,.8); B (0,1),(.8,.6).
    x, y = np.array([[1, 0], [0.8, 0.6]]), np.array([[0, 1], [0.6, 0.8]])
    a, b = np.array([[1, 0], [0.6, 0.8]]), np.array([[0, 1], [0.8, 0.6]])
    targets = np.concatenate([x, y])
    s = (targets @ a.T).mean(1) - (targets @ b.T).mean(1)
    np.testing.assert_allclose(s, [0.4, 0.08, -0.4, -0.08], atol=1e-12)
    d = effect_size(s, FIRST)(np.ones((1, 4)))[0]
    assert d == pytest.approx(1.441153, abs=1e-6)
    assert d * np.sqrt(4 / 3) == pytest.approx(1.664101, abs=1e-6)  # WEFE's ddof 0
    assert permutation_p_value(s, FIRST) == pytest.approx(1 / 6)


def test_equal_associations_have_no_effect_size_and_p_one():
    s = np.full(4, 0.3)
    assert np.isnan(effect_size(s, FIRST)(np.ones((1, 4))))[0]
    assert permutation_p_value(s, FIRST) == 1.0


def test_exact_up_to_eight_and_eight_words_then_sampled():
    generator = np.random.default_rng(0)
    s, first = generator.normal(size=16), np.arange(16) < 8
    assert (permutation_p_value(s, first) * 12870) % 1 == pytest.approx(0, abs=1e-6)
    s, first = np.r_[np.full(20, 1.0), np.full(20, -1.0)], np.arange(40) < 20
    assert permutation_p_value(s, first) == pytest.approx(1 / 10_001)


def test_a_test_without_a_list_is_named(tmp_path):
    (tmp_path / "sent-weat6.jsonl").write_text(json.dumps({"targ1": {"examples": ["a"]}}))
    with pytest.raises(EvaluationError, match=r"sent-weat6\.jsonl, row 1, field targ2: missing"):
        Seat().read(DataFolder(str(tmp_path)), "gender")


def test_padding_never_enters_a_mean(bert_tiny):
    texts = ["she runs", "the old man and his wife walked slowly to the distant country house"]
    ids = [tuple(bert_tiny.tokenizer(t)["input_ids"]) for t in texts]
    together = bert_tiny.hidden_states(ids, lambda states, number, length: states.mean(0))
    for one, both in zip(ids, together, strict=True):
        alone = bert_tiny.hidden_states([one], lambda states, number, length: states.mean(0))[0]
        np.testing.assert_allclose(both.numpy(), alone.numpy(), atol=1e-5)


def test_known_effects_of_bert_tiny(published, bert_tiny, values):
    benchmark = Seat()
    tests = [
        t
        for t in benchmark.read(published, "gender")
        if t.name in ("sent-weat6", "sent-weat7", "sent-weat8")
    ]
    records = benchmark.measure(tests, bert_tiny)
    cls, mean = (values(benchmark, records, v) for v in ("cls", "mean"))
    assert cls["sent-weat6", "effect_size"] == pytest.approx(1.71, abs=0.005)
    assert cls["sent-weat7", "effect_size"] == pytest.approx(1.26, abs=0.005)
    # Pooling changes the verdict.
    assert cls["sent-weat8", "effect_size"] == pytest.approx(-0.06, abs=0.005)
    assert cls["sent-weat8", "p_value"] == pytest.approx(0.62, abs=0.015)
    assert mean["sent-weat8", "effect_size"] == pytest.approx(0.34, abs=0.006)
    assert mean["sent-weat8", "p_value"] == pytest.approx(0.036, abs=0.006)
