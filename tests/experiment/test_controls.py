"""The control words of an experiment: as many and as frequent as asked, of the column asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ncfast.experiment import load_protocol
from ncfast.experiment.controls import SCHEMA, draw_words
from ncfast.finetune.folder import _word_name
from ncfast.language import Corpus, DrawnWords, WordSet
from ncfast.sealed_file import dump_json, read_json
from tests.tiny import byte_tokenizer

LINES = ["The cat saw she and he", "the dog saw the cat", "She saw him and the dog", "And he did"]


@pytest.fixture(scope="module")
def base():
    """Return what stands for a model: a byte-level vocabulary, where " the" is not "The"."""
    spelled = (f" {w} {w.capitalize()}" for line in [*LINES, "bird"] for w in line.lower().split())
    tokenizer = byte_tokenizer([*LINES, *(w for w in spelled for _ in range(3))], 600)
    return SimpleNamespace(tokenizer=tokenizer, vocab_size=len(tokenizer))


def protocol_of(tiny_protocol, tmp_path, text, **training):
    loaded = load_protocol(tiny_protocol(tmp_path))
    controls = {"other": "random", "matched": "matched"}
    training = {**loaded.training, **training}
    return replace(loaded, texts=(str(text),), controls=controls, training=training)


def test_controls_are_as_many_as_were_drawn(base, tiny_protocol, tmp_path):
    text = tmp_path / "lines.txt"
    text.write_text("\n".join(LINES * 20), encoding="utf-8")
    protocol = protocol_of(tiny_protocol, tmp_path, text)
    path = tmp_path / "words.json"
    drawn = draw_words(protocol, protocol.models[0], base, path)
    counts = Corpus.from_spec([str(text)], base.tokenizer, progress=False).token_counts(
        base.vocab_size
    )
    present = counts[drawn["gender"].to_classes(base.tokenizer).ids] > 0
    for control in ("other", "matched"):
        ids = drawn[control].to_classes(base.tokenizer).ids
        assert len(ids) == int(present.sum()) >= 3
        assert (counts[ids] > 0).all()
    again = draw_words(protocol, protocol.models[0], base, path)
    assert again == drawn
    assert isinstance(again["matched"], DrawnWords)


def test_controls_of_before_tokens_were_kept_go_on_as_they_began(base, tiny_protocol, tmp_path):
    text = tmp_path / "lines.txt"
    text.write_text("\n".join(LINES * 20), encoding="utf-8")
    protocol = protocol_of(tiny_protocol, tmp_path, text)
    path = tmp_path / "words.json"
    draw_words(protocol, protocol.models[0], base, path)
    document = read_json(path, SCHEMA)
    del document["ids"]
    document["words"]["matched"] = ["the"]
    path.write_text(dump_json(document), encoding="utf-8")
    with pytest.warns(UserWarning, match="kept words and not tokens; they go on as they began"):
        kept = draw_words(protocol, protocol.models[0], base, path)
    assert len(kept["matched"].to_classes(base.tokenizer).ids) > 1  # as they were trained


@pytest.mark.parametrize("of_model", [False, True])
def test_controls_are_of_the_column_that_is_trained_on(base, tiny_protocol, tmp_path, of_model):
    text = tmp_path / "rows.jsonl"
    rows = [{"text": "bird " * 9, "body": line} for line in LINES * 20]
    text.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    column = {"text_column": "body"}
    protocol = protocol_of(tiny_protocol, tmp_path, text, **({} if of_model else column))
    model = replace(protocol.models[0], training=column if of_model else {})
    drawn = draw_words(protocol, model, base, tmp_path / "words.json")
    assert "bird" not in drawn["other"].words
    assert read_json(tmp_path / "words.json", SCHEMA)["asked"]["text_column"] == "body"


def test_a_run_of_other_tokens_under_the_same_words_is_another(base):
    """Words of byte-level vocabularies have several tokens: a run goes on with its own alone."""
    ids = base.tokenizer.convert_tokens_to_ids(["Ġthe", "Ġcat"])
    one, other = (DrawnWords("c", {"c": ("the", "cat")}, ids=tuple(i)) for i in (ids, ids[::-1]))
    spelled = WordSet("c", {"c": ("the", "cat")})
    assert len({_word_name(words) for words in (one, other, spelled)}) == 3
    assert _word_name(one) == _word_name(replace(one))
