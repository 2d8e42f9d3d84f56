"""Perplexity: every token once, and words whose pieces are hidden together."""

from __future__ import annotations

import math

import pytest

from ncfast.fairness.benchmarks.perplexity import Perplexity
from ncfast.fairness.data import DataFolder


def test_perplexity_counts_every_token_once(tmp_path, told, values):
    (tmp_path / "story.txt").write_text("a b c\n\na b\n")
    benchmark = Perplexity(tmp_path / "story.txt")
    items = benchmark.read(DataFolder(str(tmp_path)), "all")
    records = benchmark.measure(items, told("causal", a=-1.0, b=-2.0, c=-3.0))
    assert values(benchmark, records)["story", "perplexity"] == pytest.approx(math.exp(9 / 5))


def test_within_word_masks_hide_the_rest_of_the_word(tmp_path, bert_tiny):
    (tmp_path / "story.txt").write_text("unathletic people run\n")
    benchmark, asked = Perplexity(tmp_path / "story.txt"), []

    class Spy:
        kind, tokenizer = "masked", bert_tiny.tokenizer

        def masked(self, requests):
            asked.extend(requests)
            return [(-1.0,) for _ in requests]

    benchmark.measure(benchmark.read(DataFolder(str(tmp_path)), "all"), Spy())
    mask = bert_tiny.tokenizer.mask_token_id
    half = len(asked) // 2
    assert all(r.ids.count(mask) == 1 for r in asked[:half])
    pieces = len(bert_tiny.tokenizer("unathletic", add_special_tokens=False)["input_ids"])
    assert [r.ids.count(mask) for r in asked[half : half + pieces]] == list(range(pieces, 0, -1))
