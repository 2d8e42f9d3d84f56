"""Long documents: read and tokenised in bounded pieces, with the ids of the whole."""

from __future__ import annotations

import gzip
import random

import numpy as np
import pytest

from ncfast.language import Corpus, text_files, tokenising


class Counting:
    """A tokenizer that remembers what it was given."""

    def __init__(self, tokenizer):
        self._tokenizer, self.longest, self.total = tokenizer, 0, 0

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __call__(self, texts, **options):
        given = [texts] if isinstance(texts, str) else texts
        self.longest = max(self.longest, *map(len, given))
        self.total += sum(map(len, given))
        return self._tokenizer(texts, **options)


@pytest.fixture(scope="session")
def prefix_tokenizer():
    """A tokenizer like Llama's: a mark before the text, marks for spaces, merges over all of it."""
    from tokenizers import Tokenizer, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(["the king and the queen said so"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.fixture
def long_text(sentences):
    generator = random.Random(0)
    words = " ".join(sentences).split()
    joints = [" ", " ", " ", "  ", " - ", ", ", ".", "\t", "'", " été "]
    return "".join(generator.choice(words) + generator.choice(joints) for _ in range(6000))


def ids_of(path, tokenizer, **options):
    corpus = Corpus.from_spec([str(path)], tokenizer, None, 16, progress=False, **options)
    return corpus._ids, corpus


@pytest.mark.parametrize("kind", ["wordpiece_tokenizer", "byte_tokenizer", "prefix_tokenizer"])
@pytest.mark.parametrize("documents", ["lines", "paragraphs"])
def test_a_long_document_has_the_ids_of_the_whole(
    kind, documents, request, tmp_path, long_text, monkeypatch
):
    tokenizer = request.getfixturevalue(kind)
    path = tmp_path / "long.txt"
    path.write_text(f"  {long_text} \nthe king\n\n{long_text[:3000]}\n", encoding="utf-8")
    expected, before = ids_of(path, tokenizer, documents=documents)
    for name, value in (("LONGEST_PIECE", 700), ("CHARACTERS_AT_A_TIME", 900)):
        monkeypatch.setattr(tokenising, name, value)
    monkeypatch.setattr(text_files, "BLOCK_BYTES", 257)
    counting = Counting(tokenizer)
    found, corpus = ids_of(path, counting, documents=documents)
    assert np.array_equal(found, expected)
    assert corpus.documents == before.documents == (3 if documents == "lines" else 2)
    assert counting.longest < 1100  # a piece, or both windows and the space between
    assert not corpus.notes


def test_an_endless_word_is_cut_and_said(tmp_path, wordpiece_tokenizer, monkeypatch):
    monkeypatch.setattr(tokenising, "LONGEST_PIECE", 5000)
    (tmp_path / "word.txt").write_text("he " + "a" * 12_000)
    _, corpus = ids_of(tmp_path / "word.txt", wordpiece_tokenizer)
    assert corpus.notes == (
        "a document without white space was cut to be tokenised (2 times); the tokens "
        "there may differ",
    )


@pytest.mark.parametrize("packed", [False, True])
def test_a_line_of_megabytes_is_not_read_to_its_end(packed, tmp_path, sentences, byte_tokenizer):
    line = (" ".join(sentences) + " ").encode() * 40_000  # 17 MB
    path = tmp_path / ("line.txt.gz" if packed else "line.txt")
    path.write_bytes(gzip.compress(line, 1) if packed else line)
    read = []
    blocks = text_files._decode

    def counted(decoder, data, offset, name):
        read.append(len(data))
        return blocks(decoder, data, offset, name)

    counting = Counting(byte_tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "_decode", counted)
        corpus = Corpus.from_spec([str(path)], counting, 300, 16, progress=False)
    assert corpus.tokens == 300
    start = " ".join(sentences * 20)
    whole = byte_tokenizer(start, add_special_tokens=False)["input_ids"]
    assert corpus._ids.tolist() == whole[:300]
    assert counting.longest <= tokenising.LONGEST_PIECE
    assert max(sum(read), counting.total) < 3 << 20 < len(line) / 4
