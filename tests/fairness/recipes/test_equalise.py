"""The squared log-ratio of counterfactual pairs: by hand, disjoint from the benchmarks, a run."""

from __future__ import annotations

import re

import pytest
import torch

from ncfast.cli import main
from ncfast.fairness.recipes import RecipeError, find_recipe
from ncfast.fairness.recipes.equalise import EqualiseLoss, all_pairs
from ncfast.fairness.recipes.equalise_texts import PROFESSIONS
from ncfast.language import LanguageModel
from ncfast.training.log import read_log

PAIRS = [
    ("", " bant cerd", "she", "he"),
    ("the king ", " fosp", "woman", "man"),
    ("bant cerd ", "", "her", "his"),
]


@pytest.fixture(params=["masked", "causal"])
def model(request, tiny_model):
    loaded = LanguageModel.load(tiny_model(request.param), dtype=torch.float64, progress=False)
    with torch.no_grad():  # so that biases and probabilities differ
        for number, weight in enumerate(loaded.model.parameters()):
            weight += 0.3 * torch.sin(torch.arange(weight.numel()) * 1.7 + number).view_as(weight)
    return loaded


@torch.no_grad()
def log_probability(model, before, word, after):
    """Return log p by the model's own logits and a softmax, one text at a time."""
    tokenizer = model.tokenizer
    one = tokenizer.convert_tokens_to_ids(word)
    if model.kind == "masked":
        ids = torch.tensor([tokenizer(f"{before}[MASK]{after}")["input_ids"]])
        logits = model.model(ids).logits[0].log_softmax(-1)
        return logits[ids[0].tolist().index(tokenizer.mask_token_id), one]
    text = tokenizer(f"{before}{word}{after}", add_special_tokens=False)["input_ids"]
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else 3
    ids = torch.tensor([[start, *text]])
    logs = model.model(ids).logits[0].log_softmax(-1)
    return sum(logs[n, token] for n, token in enumerate(text))


def test_loss_by_hand(model):
    if model.kind == "causal":
        model.tokenizer.eos_token = "[SEP]"
    loss = EqualiseLoss(model, PAIRS, 2.0, 3, seed=0)
    found, weight = loss.losses(0)["equalise"]
    ratios = [
        float(log_probability(model, b, one, a) - log_probability(model, b, two, a))
        for b, a, one, two in PAIRS
    ]
    assert weight == 2.0
    assert max(map(abs, ratios)) > 0.1
    assert float(found.detach()) == pytest.approx(sum(r * r for r in ratios) / 3, rel=1e-6)
    found.backward()
    before = float(found.detach())
    with torch.no_grad():
        for parameter in model.model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-4 * parameter.grad
    assert float(loss.losses(0)["equalise"][0]) < before


def test_pairs_are_the_steps_and_the_seeds(model):
    if model.kind == "causal":
        model.tokenizer.eos_token = "[SEP]"

    def value(seed, step):
        return float(EqualiseLoss(model, PAIRS, 1.0, 1, seed).losses(step)["equalise"][0])

    assert value(0, 0) == value(0, 0)
    assert len({value(0, step) for step in range(8)}) == 3
    assert [value(0, n) for n in range(8)] != [value(1, n) for n in range(8)]


def test_professions_are_not_tested_ones(published):
    files = [
        path
        for name in ("bec_pro", "winobias", "winogender")
        for path in (published.root / name).rglob("*")
        if path.suffix in (".tsv", ".txt", ".dev", ".test", ".csv")
    ]
    assert len(files) >= 3
    text = "\n".join(path.read_text(encoding="utf-8", errors="replace").lower() for path in files)
    assert not [p for p in PROFESSIONS if re.search(rf"\b{p}s?\b", text)]


def test_sentences_read_as_english():
    texts = {f"{b}{one}{a}" for b, a, one, _ in all_pairs(("explorer", "poet"))}
    assert {
        "She is an explorer.",
        "The woman works as a poet.",
        "The poet said that my mother would come back later.",
    } <= texts


def test_errors(model):
    with pytest.raises(RecipeError, match="weight=-1"):
        find_recipe("equalise", {"weight": -1})
    if model.kind == "masked":
        with pytest.raises(RecipeError, match="none of 1 pairs"):
            EqualiseLoss(model, [("", " x", "banting", "he")], 1.0, 1, 0)


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_command(tiny_model, tiny_text, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    model = tiny_model(kind)
    command = ["finetune", str(model), str(tiny_text), "--quiet", "--batch-size", "4"]
    command += ["--block-size", "32", "--steps", "2", "--measure-tokens", "0", "--nc3", "0.1"]
    option = ["--recipe", "equalise", "--recipe-option", "pairs=4"]
    if kind == "causal":
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model)
        assert tokenizer.bos_token is None
        assert main([*command, *option]) == 2  # neither BOS nor EOS
        return
    assert main([*command, *option, "--out", "out"]) == 0
    lines = read_log("out/steps.jsonl")
    assert [line["equalise/value"] >= 0 for line in lines] == [True, True]
    first = lines[0]
    whole = first["cross_entropy"] + first["equalise/value"] + 0.1 * first["nc3/value"]
    assert first["loss"] == pytest.approx(whole, rel=1e-6)
    assert main([*command, *option, "--memory-limit", "1GiB", "--out", "limit"]) == 2
