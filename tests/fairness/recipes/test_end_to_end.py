"""Every recipe through the command on the restored BERT-tiny: two steps, or none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ncfast.cli import main
from ncfast.fairness.recipes import RECIPES
from ncfast.training.log import read_log

PAIRS = """orig_sent0,orig_sent1,aug_sent0,aug_sent1
The woman reads a book.,She reads.,The man reads a book.,He reads.
"A boy, tired, sleeps.",A boy rests.,"A girl, tired, sleeps.",A girl rests.
His mother cooks.,A woman cooks.,Her father cooks.,A man cooks.
"""
TEXT = """The doctor said that she would call her mother in the morning.
He was proud of his daughter, and his wife was proud of him.
My sister works as a nurse, and my brother works as an engineer.
The old man and the young woman went to the house of the king.
The teacher asked the boys to wait, and the girls to come in.
"""


@pytest.mark.parametrize("name", RECIPES)
def test_command(name, bert_tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT * 40, encoding="utf-8")
    model = bert_tiny.model.name
    command = ["finetune", str(model), "text.txt", "--quiet", "--block-size", "32", "--lr", "1e-4"]
    command += ["--batch-size", "4", "--measure-tokens", "0", "--recipe", name, "--out", "out"]
    recipe = RECIPES[name]
    if name == "mabel":
        Path("pairs.csv").write_text(PAIRS, encoding="utf-8")
        command += ["--recipe-option", "pairs=pairs.csv"]
    assert main([*command, *(["--steps", "2", "--nc3", "0.1"] if recipe.trained else [])]) == 0
    report = json.loads(Path("out/finetune.json").read_text())
    assert report["recipe"]["name"] == name
    assert report["perplexity"]["before"] != report["perplexity"]["after"]
    assert len(read_log("out/steps.jsonl")) == (2 if recipe.trained else 0)
