"""Counterfactual substitution: which documents change, that held-out text does not, the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ncfast.cli import main
from ncfast.fairness.recipes import RecipeError, find_recipe
from ncfast.finetune import FinetuneSettings
from ncfast.finetune.kept_back import CUT, outside_blocks
from ncfast.finetune.texts import read_training
from ncfast.language import Corpus, LanguageError, LanguageModel

TEXT = [f"{who} {verb} the {what}" for who in ("he", "she") for verb in ("bant", "cerd")
        for what in ("king", "mother", "fosp")] * 40  # fmt: skip


def test_a_share_is_swapped_and_the_draw_is_the_seeds():
    def swapped(seed: int, share: float) -> list[bool]:
        change = find_recipe("bec", {"share": share}).documents(seed, {})
        pieces = [(half, end) for _ in range(400) for half, end in (("he ", False), ("ran", True))]
        return [text == "she ran" for text, _ in change(pieces)]

    assert sum(swapped(0, 0.5)) == pytest.approx(200, abs=40)
    assert swapped(0, 0.5) == swapped(0, 0.5) != swapped(1, 0.5)
    assert sum(swapped(0, 1.0)) == 400
    assert not any(swapped(0, 0.0))


def test_copies_follow_their_documents():
    counts: dict[str, int] = {}
    change = find_recipe("bec", {"copies": "true"}).documents(0, counts)
    given = [("he ran", True), ("rain", True), ("I saw her cry", True)]
    assert [text for text, _ in change(given)] == ["he ran", "she ran", "rain", "I saw her cry"]
    assert counts == {
        "documents copied with genders swapped": 1,
        "documents without a gendered word": 1,
        "documents left as they are: ambiguous": 1,
    }


@pytest.mark.parametrize("options", [{"share": 1.5}, {"share": "a"}, {"shares": 1}, {"names": 2}])
def test_options_are_checked(options):
    with pytest.raises(RecipeError, match=r"recipe 'bec', option .*; expected "):
        FinetuneSettings(recipe="bec", recipe_options=options)
    with pytest.raises(RecipeError, match="expected one of plain, bec"):
        find_recipe("becc")


SWAP = {"he": "she", "she": "he", "king": "queen", "mother": "father"}


@pytest.mark.parametrize("kind", ["masked", "causal"])
@pytest.mark.parametrize("max_tokens", [None, 777])
def test_every_recipe_keeps_back_the_same_text(tiny_model, tmp_path, kind, max_tokens):
    path = tmp_path / "text.txt"
    path.write_text("\n".join([*TEXT, "", " ".join(TEXT), "bant"]), encoding="utf-8")
    model = LanguageModel.load(str(tiny_model(kind)), progress=False)
    settings = FinetuneSettings(held_out=0.1, progress=False, max_tokens=max_tokens)
    plain, swapped = (
        read_training([str(path)], model, settings, find_recipe(name, options), 32)
        for name, options in (("plain", {}), ("bec", {"share": 1.0}))
    )
    assert swapped.held_out.fingerprint == plain.corpus.fingerprint
    assert swapped.held_out_blocks == plain.held_out_blocks

    def words(corpus, blocks=None):
        ids = corpus.take(range(corpus.num_blocks) if blocks is None else blocks).input_ids
        special = set(model.tokenizer.all_special_ids)
        return [t for t in model.tokenizer.convert_ids_to_tokens(ids[0:].flatten().tolist())
                if model.tokenizer.convert_tokens_to_ids(t) not in special]  # fmt: skip

    given = words(plain.corpus, plain.blocks)
    assert words(swapped.corpus) == [SWAP.get(word, word) for word in given]
    assert words(plain.trained_on(model.tokenizer)) == given
    assert swapped.counts[CUT] > 5


def test_a_word_of_which_a_piece_is_kept_back_is_in_no_document(bert_tiny, tmp_path):
    tokenizer = bert_tiny.model.tokenizer
    text = [f"{who} unbelievably {verb} the lighthouse, {who} said; it was untranslatable."
            for who in ("He", "She") for verb in ("watched", "misremembered")] * 25  # fmt: skip
    path = tmp_path / "text.txt"
    path.write_text("\n".join(text), encoding="utf-8")
    given = Corpus.from_spec([str(path)], tokenizer, None, 16, progress=False)
    blocks = list(range(2, given.num_blocks, 3))
    counts: dict[str, int] = {}
    take = outside_blocks(given, blocks, tokenizer, counts)
    parts = [part for part, _ in take((line, True) for line in text)]
    known = set(" ".join(text).split())
    assert {word for part in parts for word in part.split()} <= known
    lost = len(" ".join(text).split()) - sum(len(part.split()) for part in parts)
    assert 0 < lost < 0.6 * len(" ".join(text).split())
    assert counts[CUT] > 50


def test_tokens_that_are_not_the_corpus_s_are_refused(bert_tiny, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("one two three", encoding="utf-8")
    tokenizer = bert_tiny.model.tokenizer
    given = Corpus.from_spec([str(path)], tokenizer, None, 16, progress=False)
    take = outside_blocks(given, [0], tokenizer, {})
    with pytest.raises(LanguageError, match="expected held_out=0, or validation texts"):
        list(take([("one two four", True)]))


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_command(tiny_model, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("\n".join(TEXT), encoding="utf-8")
    command = ["finetune", str(tiny_model(kind)), "text.txt", "--quiet", "--batch-size", "4"]
    command += ["--block-size", "32", "--steps", "2", "--measure-tokens", "0", "--nc3", "0.1"]
    assert main([*command, "--recipe", "bec", "--recipe-option", "share=1", "--out", "out"]) == 0
    report = json.loads(Path("out/finetune.json").read_text())
    assert report["recipe"]["name"] == "bec"
    assert (
        report["recipe"]["text"]["documents swapped"] == 456
    )  # outside the blocks that are kept back
    assert report["settings"]["recipe_options"] == {"share": "1"}
    assert "Recipe bec: 456 documents swapped." in Path("out/finetune.md").read_text()
