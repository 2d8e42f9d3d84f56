"""Arms of one seed see the same batches, masks and dropout: only what is compared differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ncfast.finetune import FinetuneSettings, TermSettings, finetune
from ncfast.language import WordSet

ANIMALS = WordSet("animals", {"animals": ("bant", "cerd", "dilk", "fosp")})
PEOPLE = WordSet("people", {"people": ("he", "she")})


def first_step(model, text: Path, out: Path, terms: TermSettings, **settings) -> tuple:
    finetune(
        str(model),
        str(text),
        out,
        FinetuneSettings(
            terms=terms,
            steps=2,
            batch_size=32,
            block_size=16,
            measure_tokens=0,
            progress=False,
            held_out=0.0,
            mask_words=0.9,
            **settings,
        ),
    )
    line = json.loads((out / "steps.jsonl").read_text().splitlines()[0])
    return line["predicted"], line["cross_entropy"]


@pytest.mark.parametrize("preset", ["ncfast", "official"])
def test_the_terms_change_no_mask_and_no_dropout(tiny_model, tiny_text, tmp_path, preset):
    model, shared = tiny_model("masked"), {"mask_words_of": (ANIMALS, PEOPLE)}
    none = first_step(model, tiny_text, tmp_path / "0", TermSettings(words=(PEOPLE,)), **shared)
    terms = TermSettings(nc3=2.0, words=(ANIMALS,), preset=preset)
    assert first_step(model, tiny_text, tmp_path / "1", terms, **shared) == none
    # Without the setting, masks follow the words of the terms, and arms are not paired.
    assert first_step(model, tiny_text, tmp_path / "2", terms) != none
