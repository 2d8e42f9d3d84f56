"""ADEPT: both terms by hand, prototypes kept over a kill, a run."""

from __future__ import annotations

import math

import pytest
import torch

from ncfast.cli import main
from ncfast.fairness.recipes import RecipeError, find_recipe
from ncfast.fairness.recipes.adept import AdeptLoss
from ncfast.language import Corpus, LanguageModel
from ncfast.training.log import read_log

WORDS = ("bant", "cerd", "fosp")
MALE = ("he", "his", "man", "father", "king")
FEMALE = ("she", "her", "woman", "mother", "queen")


@pytest.fixture(params=["masked", "causal"])
def setting(request, tiny_model, tiny_text):
    model = LanguageModel.load(tiny_model(request.param), dtype=torch.float64, progress=False)
    corpus = Corpus.from_spec([str(tiny_text)], model.tokenizer, 600, 16, progress=False)
    return model, corpus


def vectors(model, corpus, blocks, words):
    """Return one vector a word, position by position."""
    chosen = set(model.tokenizer.convert_tokens_to_ids(list(words)))
    found = []
    for block in blocks:
        batch = corpus.take([block])
        states = model.body(
            batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True
        ).hidden_states
        for t, token in enumerate(batch.input_ids[0].tolist()):
            if token in chosen:
                found.append(torch.cat([state[0, t] for state in states]).detach())
    return torch.stack(found)


@pytest.mark.parametrize("dpce", [False, True])
def test_terms_by_hand(setting, dpce):
    model, corpus = setting
    options = {"words": WORDS, "rho": 1.5, "rows": 2, "dpce": dpce, "weight": 0.2}
    loss = AdeptLoss(find_recipe("adept", options), model, corpus, 0)
    blocks = loss.prototype_blocks
    a = [vectors(model, corpus, blocks, group).mean(0) for group in (MALE, FEMALE)]
    assert torch.allclose(loss.means, torch.stack(a))
    found = loss.losses(1)
    assert {name: weight for name, (_, weight) in found.items()} == {
        "bias": 0.2,
        "representation": 0.8,
    }
    assert float(found["representation"][0].detach()) == pytest.approx(0, abs=1e-20)

    chosen: list[list[int]] = []
    original = loss.word_vectors
    loss.word_vectors = lambda b, w: chosen.append(b) or original(b, w)
    value = float(loss.losses(1)["bias"][0].detach())
    n = vectors(model, corpus, chosen[0], WORDS)
    if dpce:
        expected = sum(float(p @ w) ** 2 for p in a for w in n) / len(n)
    else:
        weights = [[math.exp(-float((p - w) @ (p - w)) / (2 * 1.5**2)) for w in n] for p in a]
        first, second = ([x / sum(row) for x in row] for row in weights)
        expected = 0.5 * sum(
            p * math.log2(2 * p / (p + q)) + q * math.log2(2 * q / (p + q))
            for p, q in zip(first, second, strict=True)
        )
    assert value == pytest.approx(expected, rel=1e-6)
    assert value > 0


def test_representation_by_hand(setting):
    model, corpus = setting
    loss = AdeptLoss(find_recipe("adept", {"words": WORDS}), model, corpus, 0)
    blocks = loss.group_blocks[-1:]
    before = loss.hidden(blocks)[0].detach()
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter += 0.01
    after, _, mask = loss.hidden(blocks)
    rows = [t for t in range(mask.shape[1]) if mask[0, t]]
    moved = (after - before).detach()
    expected = sum(float(moved[0, t].square().mean()) for t in rows) / len(rows)
    assert float(loss.representation(blocks).detach()) == pytest.approx(expected, rel=1e-9)


def test_prototypes_are_renewed_and_saved(setting):
    model, corpus = setting
    loss = AdeptLoss(find_recipe("adept", {"words": WORDS, "renew": 3}), model, corpus, 0)
    before = loss.means.clone()
    with torch.no_grad():
        for number, parameter in enumerate(model.model.parameters()):
            wave = torch.sin(torch.arange(parameter.numel()) + number)
            parameter += 0.1 * wave.view_as(parameter)
    loss.losses(4)
    assert torch.equal(loss.means, before)
    loss.losses(6)
    assert not torch.equal(loss.means, before)
    assert loss.state()["prototypes"] is loss.means


def test_errors(setting, tmp_path):
    model = setting[0]
    with pytest.raises(RecipeError, match="weight=2"):
        find_recipe("adept", {"weight": 2})
    for text, what in (("he she bant", "neutral"), ("he bant pumb", "female")):
        path = tmp_path / f"{what}.txt"
        path.write_text(f"{text}\n" * 9, encoding="utf-8")
        corpus = Corpus.from_spec([str(path)], model.tokenizer, None, 16, progress=False)
        with pytest.raises(RecipeError, match=f"no {what} word"):
            AdeptLoss(find_recipe("adept", {"words": ("pumb",)}), model, corpus, 0)


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_command(tiny_model, tiny_text, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    command = ["finetune", str(tiny_model(kind)), str(tiny_text), "--quiet", "--block-size", "32"]
    command += ["--batch-size", "4", "--measure-tokens", "0", "--recipe", "adept", "--nc3", "0.1"]
    command += ["--recipe-option", "words=bant,cerd", "--steps", "2", "--out", "out"]
    assert main(command) == 0
    lines = read_log("out/steps.jsonl")
    assert lines[0]["representation/value"] > 0  # dropout
    assert 0 < lines[0]["bias/value"] < 1
    first = lines[0]
    whole = 0.3 * first["bias/value"] + 0.7 * first["representation/value"]
    assert first["loss"] == pytest.approx(whole + 0.1 * first["nc3/value"], rel=1e-5)
