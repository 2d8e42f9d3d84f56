"""Counterfactual substitution: which documents change, that held-out text does not, the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ncfast.cli import main
from ncfast.fairness.recipes import RecipeError, find_recipe
from ncfast.finetune import FinetuneSettings
from ncfast.finetune.texts import read_training
from ncfast.language import LanguageModel

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


def test_held_out_text_is_what_was_given(tiny_model, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(TEXT), encoding="utf-8")
    model = LanguageModel.load(str(tiny_model("masked")), progress=False)
    settings = FinetuneSettings(held_out=0.1, progress=False)
    recipe = find_recipe("bec", {"share": 1.0})
    found = read_training([str(path)], model, settings, recipe, 32)

    def words(corpus):
        ids = corpus.take(range(corpus.num_blocks)).input_ids
        return model.tokenizer.decode(ids[ids > 4]).split()

    swap = {"he": "she", "she": "he", "king": "queen", "mother": "father"}
    kept, trained = TEXT[9::10], [text for n, text in enumerate(TEXT) if n % 10 != 9]
    assert words(found.held_out) == [w for t in kept for w in t.split() if w != "the"]
    assert words(found.corpus) == [swap.get(w, w) for t in trained for w in t.split() if w != "the"]


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_command(tiny_model, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("\n".join(TEXT), encoding="utf-8")
    command = ["finetune", str(tiny_model(kind)), "text.txt", "--quiet", "--batch-size", "4"]
    command += ["--block-size", "32", "--steps", "2", "--measure-tokens", "0", "--nc3", "0.1"]
    assert main([*command, "--recipe", "bec", "--recipe-option", "share=1", "--out", "out"]) == 0
    report = json.loads(Path("out/finetune.json").read_text())
    assert report["recipe"]["name"] == "bec"
    assert report["recipe"]["text"]["documents swapped"] == 456  # all but each twentieth
    assert report["settings"]["recipe_options"] == {"share": "1"}
    assert "Recipe bec: 456 documents swapped." in Path("out/finetune.md").read_text()
