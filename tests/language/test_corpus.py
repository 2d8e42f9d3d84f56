"""Text in, blocks out: nothing lost, nothing silent, the same after a resume."""

from __future__ import annotations

import copy
import gzip
import json
import sys
import types
from pathlib import PurePath

import numpy as np
import pytest
import torch

from ncfast.language import Corpus, LanguageError
from ncfast.language.sources import Sources


def read(texts, tokenizer, **options):
    options = {"block_size": 16, "progress": False, **options}
    return Corpus.from_spec([str(text) for text in texts], tokenizer, **options)


def text_tokens(corpus, batch_size=3):
    """Every real token of the corpus, in order, read back from its batches."""
    parts = []
    for batch in corpus.batches(batch_size):
        real = batch.attention_mask.bool() & ~batch.special_mask
        parts += [row[keep] for row, keep in zip(batch.input_ids, real, strict=True)]
    return torch.cat(parts)


@pytest.fixture
def text_file(tmp_path, sentences):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(sentences) + "\n\n\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["wordpiece_tokenizer", "byte_tokenizer"])
@pytest.mark.parametrize("block_size", [5, 16, 64])
def test_no_token_is_lost(kind, block_size, request, text_file, sentences):
    tokenizer = request.getfixturevalue(kind)
    corpus = read([text_file], tokenizer, block_size=block_size)
    special = torch.tensor(sorted(tokenizer.all_special_ids))
    plain = torch.tensor(
        [i for s in sentences for i in tokenizer(s, add_special_tokens=False)["input_ids"]]
    )
    plain = plain[~torch.isin(plain, special)]
    assert torch.equal(text_tokens(corpus), plain)
    assert corpus.tokens == len(plain)
    counts = corpus.token_counts(len(tokenizer))
    assert torch.equal(counts, torch.bincount(plain, minlength=len(tokenizer)))
    some_id = int(plain.max())
    assert torch.equal(corpus.token_counts(some_id), counts[:some_id])
    assert corpus.documents == len(sentences)
    assert corpus.dropped["empty documents"] == 2


def test_layout_follows_the_tokenizer(text_file, wordpiece_tokenizer, byte_tokenizer):
    t = wordpiece_tokenizer
    corpus = read([text_file], t)
    batches = list(corpus.batches(2))
    rows = torch.cat([batch.input_ids for batch in batches])
    mask = torch.cat([batch.attention_mask for batch in batches])
    assert (rows[:, 0] == t.cls_token_id).all()
    lengths = mask.sum(dim=1)
    last = rows.gather(1, (lengths - 1)[:, None])
    assert (last == t.sep_token_id).all()
    assert (rows[mask == 0] == t.pad_token_id).all()
    assert (mask == 0).any()
    assert lengths[:-1].eq(16).all()
    # Between documents stands one separator: as many inside as documents, less one.
    inside = (rows == t.sep_token_id).sum() - len(rows)
    assert inside == corpus.documents - 1
    causal = read([text_file], byte_tokenizer)
    first = next(causal.batches(1)).input_ids[0]
    assert first[0] != byte_tokenizer.eos_token_id
    assert causal.layout.separator == byte_tokenizer.eos_token_id


def test_resuming_gives_the_same_batches(text_file, wordpiece_tokenizer):
    corpus = read([text_file], wordpiece_tokenizer)
    whole, rest = list(corpus.batches(2)), list(corpus.batches(2, start=2))
    assert len(whole) == corpus.num_batches(2) > 3
    assert [batch.index for batch in rest] == [batch.index for batch in whole[2:]]
    for ours, theirs in zip(rest, whole[2:], strict=True):
        assert torch.equal(ours.input_ids, theirs.input_ids)
        assert torch.equal(ours.blocks, theirs.blocks)
    assert list(corpus.batches(2, start=corpus.num_batches(2))) == []
    for batch_size, start in [(0, 0), (2, -1), (2, 999)]:
        with pytest.raises(LanguageError, match="batch_size="):
            next(corpus.batches(batch_size, start))


def test_fingerprint_tells_texts_and_settings_apart(
    text_file, tmp_path, wordpiece_tokenizer, byte_tokenizer
):
    same = read([text_file], wordpiece_tokenizer).fingerprint
    assert read([text_file], wordpiece_tokenizer).fingerprint == same
    other = tmp_path / "other.txt"
    other.write_text(text_file.read_text().replace("king", "queen", 1))
    different = {
        read([other], wordpiece_tokenizer).fingerprint,
        read([text_file], wordpiece_tokenizer, block_size=15).fingerprint,
        read([text_file], byte_tokenizer).fingerprint,
        read([text_file], wordpiece_tokenizer, max_tokens=50).fingerprint,
    }
    assert len(different | {same}) == 5
    # The same ids mean other words to another vocabulary.
    larger = copy.deepcopy(wordpiece_tokenizer)
    larger.add_tokens(["zebra"])
    ids = np.asarray([7, 8, 9], dtype=np.int32)
    pair = [Corpus(ids, tokenizer).fingerprint for tokenizer in (wordpiece_tokenizer, larger)]
    assert pair[0] != pair[1]


@pytest.mark.parametrize("max_tokens", [1, 7, 40])
def test_max_tokens_counts_real_tokens(text_file, wordpiece_tokenizer, max_tokens):
    whole = read([text_file], wordpiece_tokenizer)
    corpus = read([text_file], wordpiece_tokenizer, max_tokens=max_tokens)
    assert corpus.tokens == max_tokens
    assert torch.equal(text_tokens(corpus), text_tokens(whole)[:max_tokens])
    assert corpus.dropped["tokens read beyond max_tokens"] == whole.tokens - max_tokens
    assert any(f"first {max_tokens} tokens" in note for note in corpus.notes)
    everything = read([text_file], wordpiece_tokenizer, max_tokens=whole.tokens)
    assert everything.fingerprint == whole.fingerprint
    assert not everything.notes
    with pytest.raises(LanguageError, match="max_tokens=0"):
        read([text_file], wordpiece_tokenizer, max_tokens=0)


def test_kinds_of_files_give_the_same_text(tmp_path, sentences, text_file, wordpiece_tokenizer):
    expected = read([text_file], wordpiece_tokenizer).fingerprint
    packed = tmp_path / "text.txt.gz"
    packed.write_bytes(gzip.compress(text_file.read_bytes()))
    lines = tmp_path / "text.jsonl"
    lines.write_text("\n".join(json.dumps({"text": s, "id": 1}) for s in sentences))
    keyed = tmp_path / "keyed.jsonl"
    keyed.write_text("\n".join(json.dumps({"body": s}) for s in sentences) + "\n")
    folder = tmp_path / "folder"
    (folder / "b").mkdir(parents=True)
    (folder / "a.txt").write_text("\n".join(sentences[:3]))
    (folder / "b" / "c.jsonl").write_text("\n".join(json.dumps({"text": s}) for s in sentences[3:]))
    (folder / "picture.png").write_bytes(b"\x89PNG")
    marked = tmp_path / "marked.txt"
    marked.write_text("\n".join(sentences), encoding="utf-8-sig")
    for path in (packed, lines, folder, marked):
        assert read([path], wordpiece_tokenizer).fingerprint == expected, path
    assert read([keyed], wordpiece_tokenizer, text_column="body").fingerprint == expected
    with pytest.warns(DeprecationWarning, match="text_column"):
        read([keyed], wordpiece_tokenizer, text_key="body")
    skipped = read([folder], wordpiece_tokenizer)
    assert skipped.dropped["files of other types"] == 1
    assert "picture.png" in skipped.notes[0]


def test_hidden_files_are_left_out_and_a_text_named_twice_is_said(
    tmp_path, sentences, wordpiece_tokenizer
):
    folder = tmp_path / ".data"  # the folder itself may be hidden: it was named
    for place in ("a.txt", "._a.txt", ".ipynb_checkpoints/a-checkpoint.txt", "b/.git/c.txt"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(sentences[0])
    once = read([folder], wordpiece_tokenizer)
    assert once.documents == 1
    assert once.dropped["hidden files"] == 3
    assert "hidden files were skipped" in once.notes[0]
    assert not any("more than once" in note for note in once.notes)
    named = read([folder / "._a.txt"], wordpiece_tokenizer)  # what is named is read
    assert named.fingerprint == once.fingerprint
    twice = read([folder, folder / "a.txt", folder / "a.txt"], wordpiece_tokenizer)
    assert twice.documents == 3
    assert sum("more than once" in note for note in twice.notes) == 1


def test_several_texts_and_paragraphs(tmp_path, sentences, wordpiece_tokenizer):
    first, second = tmp_path / "1.txt", tmp_path / "2.txt"
    first.write_text(f"{sentences[0]}\n{sentences[1]}\n\n{sentences[2]}\n")
    second.write_text(sentences[3])
    assert read([first, second], wordpiece_tokenizer).documents == 4
    joined = read([first, second], wordpiece_tokenizer, documents="paragraphs")
    assert joined.documents == 3
    assert joined.tokens == read([first, second], wordpiece_tokenizer).tokens


def test_unknown_words_are_counted(tmp_path, wordpiece_tokenizer):
    path = tmp_path / "text.txt"
    path.write_text("he 漢 she 漢\n")
    corpus = read([path], wordpiece_tokenizer)
    assert (corpus.tokens, corpus.unknown_tokens) == (2, 2)
    assert corpus.token_counts(len(wordpiece_tokenizer))[wordpiece_tokenizer.unk_token_id] == 0


def test_data_sets_by_name(monkeypatch, sentences, text_file, wordpiece_tokenizer):
    asked = []

    def load_dataset(name, config, split, streaming):
        if name == "absent":
            raise FileNotFoundError("no such data set")
        asked.append((name, config, split))
        return ({"text": sentence} for sentence in sentences)

    fake = types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    expected = read([text_file], wordpiece_tokenizer).fingerprint
    for spec in ["plain-name", "hf:some/set:test", "hf:some/set:config:validation"]:
        assert read([spec], wordpiece_tokenizer).fingerprint == expected
    assert asked == [
        ("plain-name", None, "train"),
        ("some/set", None, "test"),
        ("some/set", "config", "validation"),
    ]
    with pytest.raises(LanguageError, match=r"no file or folder here.*no such data set"):
        read(["absent"], wordpiece_tokenizer)
    with pytest.raises(LanguageError, match="expected hf:NAME"):
        read(["hf:a:b:c:d"], wordpiece_tokenizer)


def test_a_stream_that_stops_is_one_sentence(monkeypatch, sentences, wordpiece_tokenizer):
    def load_dataset(name, config, split, streaming):
        yield from ({"text": sentence} for sentence in sentences[:3])
        raise ConnectionError("reset by peer\nin the middle")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(LanguageError) as raised:
        read(["hf:some/set"], wordpiece_tokenizer)
    assert str(raised.value).endswith("cannot be read on: reset by peer in the middle")


def test_missing_extra_is_named(monkeypatch, wordpiece_tokenizer):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(LanguageError, match=r"pip install 'ncfast\[lm\]'"):
        read(["some-data-set"], wordpiece_tokenizer)


def test_bad_text_is_named(tmp_path, text_file, wordpiece_tokenizer):
    cases = {
        "empty.txt": (b" \n\n", "is empty"),
        "binary.txt": (b"abc\xff\xfe", "binary.txt is not utf-8.*0xff at offset 3"),
        "cut.txt.gz": (gzip.compress(text_file.read_bytes())[:-20], "cannot read .*cut.txt.gz"),
        "fake.txt.gz": (b"not gzip", "cannot read .*fake.txt.gz"),
        "bad.jsonl": (b'{"text": "he"}\n{"text"', "bad.jsonl, line 2 is not JSON"),
        "keys.jsonl": (b'{"a": "he", "b": "she"}\n', r"2 columns of text .*a, b.*as text_column"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(LanguageError, match=message):
            read([text_file, path], wordpiece_tokenizer)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(LanguageError, match="holds no text file"):
        read([tmp_path / "nothing"], wordpiece_tokenizer)
    with pytest.raises(LanguageError, match="there is no text file or folder"):
        read([tmp_path / "absent.txt"], wordpiece_tokenizer)
    with pytest.raises(LanguageError, match="expected a list with at least one"):
        read([], wordpiece_tokenizer)


def test_block_size_limits(text_file, wordpiece_tokenizer, monkeypatch):
    with pytest.raises(LanguageError, match="expected at least 4"):
        read([text_file], wordpiece_tokenizer, block_size=3)
    monkeypatch.setattr(wordpiece_tokenizer, "model_max_length", 32)
    with pytest.raises(LanguageError, match="expected at most 32"):
        read([text_file], wordpiece_tokenizer, block_size=33)


def test_memory_is_four_bytes_a_token(text_file, wordpiece_tokenizer):
    corpus = read([text_file], wordpiece_tokenizer)
    separators = corpus.documents - 1
    assert corpus.nbytes == 4 * (corpus.tokens + corpus.unknown_tokens + separators)


def test_overlap_is_the_share_of_the_other_text(tmp_path, sentences, wordpiece_tokenizer):
    words = " ".join(sentences).split()
    lines = [" ".join(words[i % 7 :: 2 + i % 5][:40]) for i in range(60)]
    texts = {"whole": lines, "late": lines[30:], "mixed": [*lines[:10], *reversed(words)]}
    texts["short"] = lines[7:8]
    found = {}
    for name, content in texts.items():
        path = tmp_path / f"{name}.txt"
        path.write_text("\n".join(content))
        found[name] = read([path], wordpiece_tokenizer)
    assert found["whole"].overlap(found["whole"]) == 1.0
    assert found["whole"].overlap(found["late"]) == 1.0  # at another offset
    assert found["whole"].overlap(found["short"]) == 1.0  # shorter than a stretch
    assert 0 < found["whole"].overlap(found["mixed"]) < 1


def test_a_folder_of_many_files_is_listed_in_one_go(tmp_path, monkeypatch):
    """50,000 files took minutes: each was looked up among all others."""
    for number in range(200):
        (tmp_path / f"{number}.txt").write_text("a word\n")
    compared, equal = [], PurePath.__eq__
    monkeypatch.setattr(
        PurePath, "__eq__", lambda self, other: compared.append(1) or equal(self, other)
    )
    next(iter(Sources([str(tmp_path)]).read()))
    assert len(compared) < 10 * 200
