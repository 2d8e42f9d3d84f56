"""Control sets: disjoint from the set, as frequent as asked, the same for the same seed."""

from __future__ import annotations

import pytest
import torch

from ncfast.language import (
    ControlSpec,
    DrawnWords,
    LanguageError,
    WordSet,
    frequency_matched,
    parse_controls,
    random_controls,
    whole_words,
)

CLASSES = torch.tensor([3, 10, 20])
CANDIDATES = torch.arange(1, 40)


def test_syntax():
    assert parse_controls("random:5, matched") == [
        ControlSpec("random", 5),
        ControlSpec("matched", 1),
    ]
    assert parse_controls("random") == [ControlSpec("random", 1)]
    assert parse_controls("") == []
    for wrong in ("random:0", "random:x", "matched:2", "other", "random:1,random:2"):
        with pytest.raises(LanguageError, match="control"):
            parse_controls(wrong)


def test_random_controls():
    draws = random_controls(CLASSES, CANDIDATES, count=4, seed=7)
    assert len(draws) == 4
    for draw in draws:
        assert len(draw) == len(set(draw.tolist())) == 3
        assert not torch.isin(draw, CLASSES).any()
        assert torch.isin(draw, CANDIDATES).all()
    assert len({tuple(draw.tolist()) for draw in draws}) > 1
    again = random_controls(CLASSES, CANDIDATES, count=4, seed=7)
    assert all(torch.equal(a, b) for a, b in zip(draws, again, strict=True))
    other = random_controls(CLASSES, CANDIDATES, count=4, seed=8)
    assert any(not torch.equal(a, b) for a, b in zip(draws, other, strict=True))
    everything = random_controls(CLASSES, CANDIDATES, count=1, size=36)
    assert set(everything[0].tolist()) == set(CANDIDATES.tolist()) - set(CLASSES.tolist())
    with pytest.raises(LanguageError, match="37 words from 36 candidates"):
        random_controls(CLASSES, CANDIDATES, count=1, size=37)
    with pytest.raises(LanguageError, match="0 random control sets"):
        random_controls(CLASSES, CANDIDATES, count=0)


def test_frequency_matching_takes_the_nearest():
    counts = torch.zeros(40, dtype=torch.int64)
    counts[CLASSES] = torch.tensor([1000, 50, 3])
    counts[[5, 6, 7, 8, 9]] = torch.tensor([900, 2000, 45, 4, 1])
    assert frequency_matched(CLASSES, counts, CANDIDATES).tolist() == [5, 7, 8]


def test_frequency_matching_uses_each_word_once_and_skips_absent_classes():
    counts = torch.zeros(40, dtype=torch.int64)
    counts[CLASSES] = torch.tensor([100, 100, 0])
    counts[[5, 6, 7]] = torch.tensor([100, 90, 1])
    assert frequency_matched(CLASSES, counts, CANDIDATES).tolist() == [5, 6]
    counts[[6, 7]] = 0
    with pytest.raises(LanguageError, match=r"match 2 classes .* 1 candidates"):
        frequency_matched(CLASSES, counts, CANDIDATES)
    with pytest.raises(LanguageError, match="match 0 classes"):
        frequency_matched(CLASSES, torch.zeros(40, dtype=torch.int64), CANDIDATES)


def test_frequent_classes_choose_first():
    counts = torch.zeros(40, dtype=torch.int64)
    counts[CLASSES] = torch.tensor([100, 1000, 0])
    counts[[5, 6, 7]] = torch.tensor([300, 20, 20000])
    # Were the rare class first, it would take 300 and leave 20000 to the frequent one.
    assert frequency_matched(CLASSES, counts, CANDIDATES).tolist() == [5, 6]


def test_ties_are_settled_by_the_seed():
    counts = torch.zeros(400, dtype=torch.int64)
    counts[[3, 10, 20]] = 5
    candidates = torch.arange(30, 400)
    counts[candidates] = 5
    chosen = [frequency_matched(CLASSES, counts, candidates, seed) for seed in (0, 0, 1)]
    assert torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen[0], chosen[2])


def test_whole_words_of_wordpiece(wordpiece_tokenizer):
    t = wordpiece_tokenizer
    counts = torch.ones(len(t), dtype=torch.int64)
    counts[t.convert_tokens_to_ids("king")] = 0
    found = set(t.convert_ids_to_tokens(whole_words(t, counts).tolist()))
    assert {"he", "she", "and", "the"} <= found
    assert "king" not in found  # not in the text
    assert not any(token.startswith("##") or len(token) < 2 for token in found)
    assert not found & {"[CLS]", "[MASK]", ".", ","}
    counts[t.convert_tokens_to_ids("he")] = 9
    assert t.convert_ids_to_tokens(whole_words(t, counts, min_count=5).tolist()) == ["he"]


def test_whole_words_of_byte_level(byte_tokenizer):
    t = byte_tokenizer
    counts = torch.ones(len(t), dtype=torch.int64)
    found = set(t.convert_ids_to_tokens(whole_words(t, counts).tolist()))
    assert {"Ġshe", "Ġhe", "Ġand"} <= found
    assert all(token.startswith("Ġ") for token in found)
    assert "Ġ" not in found
    assert "<|endoftext|>" not in found


def test_drawn_words_are_the_tokens_that_were_drawn(byte_tokenizer):
    """A word set takes " She" and "She" along with " she"; a control would be of more words."""
    t = byte_tokenizer
    ids = torch.tensor(t.convert_tokens_to_ids(["Ġshe", "Ġhe", "Ġand"]))
    drawn = DrawnWords.of("matched", ids, t)
    assert drawn.words == ("she", "he", "and")
    classes = drawn.to_classes(t)
    assert classes.ids.tolist() == sorted(ids.tolist())
    assert classes.words[int(ids[0])] == ("she",)
    assert classes.groups["matched"].tolist() == classes.ids.tolist()
    assert len(WordSet("same", {"same": drawn.words}).to_classes(t).ids) > 3
    assert drawn.to_classes(t, "first", capitalised=False).ids.tolist() == classes.ids.tolist()


def test_drawn_words_of_another_vocabulary_are_rejected(byte_tokenizer, wordpiece_tokenizer):
    ids = torch.tensor(byte_tokenizer.convert_tokens_to_ids(["Ġshe", "Ġhe"]))
    drawn = DrawnWords.of("random", ids, byte_tokenizer)
    with pytest.raises(LanguageError, match="have 'he' as token 273, which is none in this"):
        drawn.to_classes(wordpiece_tokenizer)
    with pytest.raises(LanguageError, match="expected one group, an id for each of its words"):
        DrawnWords("few", {"few": ("she", "he")}, ids=(1,))
