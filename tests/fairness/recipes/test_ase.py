"""ASE: what is masked, both terms by hand, the Fisher diagonal by per-sample autograd."""

from __future__ import annotations

import pytest
import torch

from ncfast.cli import main
from ncfast.fairness.recipes import find_recipe
from ncfast.fairness.recipes.ase import AseLoss, fisher_diagonal, gender_direction
from ncfast.language import Corpus, Labeller, LanguageError, LanguageModel
from ncfast.training import TrainingBatches
from ncfast.training.log import read_log

WORDS = ("bant", "cerd")


@pytest.fixture
def setting(tiny_model, tiny_text):
    model = LanguageModel.load(tiny_model("masked"), dtype=torch.float64, progress=False)
    corpus = Corpus.from_spec([str(tiny_text)], model.tokenizer, 600, 16, progress=False)
    return model, corpus


def test_every_pronoun_is_masked_and_nothing_else(setting):
    model, corpus = setting
    masking = find_recipe("ase").masking(model)
    batches = TrainingBatches(corpus, model, "mlm", 4, **masking)
    words = model.tokenizer.convert_tokens_to_ids(["he", "she", "her", "his"])
    raw = corpus.take(range(corpus.num_blocks)).input_ids
    seen = 0
    for batch in batches:
        predicted = batch.labels != -100
        assert torch.isin(batch.labels[predicted], torch.tensor(words)).all()
        assert (batch.input_ids[predicted] == model.mask_id).all()
        assert not torch.isin(batch.input_ids, torch.tensor(words)).any()
        seen += int(predicted.sum())
    assert seen == int(torch.isin(raw, torch.tensor(words)).sum()) > 20


def test_fisher_is_the_mean_of_squared_per_sample_gradients(setting):
    model, corpus = setting
    found = fisher_diagonal(model, corpus, corpus.num_blocks, seed=3)
    label = Labeller(model, seed=3)
    expected, used = {}, 0
    for block in range(corpus.num_blocks):
        batch = label(corpus.take([block]))
        if not batch.kept:
            continue
        used += 1
        model.model.zero_grad()
        logits = model.model(batch.input_ids, attention_mask=batch.attention_mask).logits[0]
        kept = batch.labels[0] != -100
        logs = logits.log_softmax(-1)[kept, batch.labels[0][kept]]
        logs.sum().backward()
        for name, parameter in model.model.named_parameters():
            if parameter.grad is not None:
                expected[name] = expected.get(name, 0) + parameter.grad.square()
    assert used > 5
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.allclose(found[name], value / used, rtol=1e-6, atol=1e-14), name


def test_terms_by_hand(setting):
    model, corpus = setting
    recipe = find_recipe("ase", {"words": WORDS, "samples": 4})
    fisher = fisher_diagonal(model, corpus, 4, 0)
    loss = AseLoss(recipe, model, corpus, 0, fisher)
    assert float(loss.penalty().detach()) == 0.0
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter += 0.01
    expected = sum(float(f.sum()) for f in fisher.values()) * 0.01**2
    assert float(loss.penalty().detach()) == pytest.approx(expected, rel=1e-9)

    blocks = loss.blocks[:3]
    ids = corpus.take(blocks).input_ids
    hidden = model.model.bert(ids, attention_mask=corpus.take(blocks).attention_mask)[0]
    chosen = torch.tensor(model.tokenizer.convert_tokens_to_ids(list(WORDS)))
    values = [
        abs(float((hidden[b, t] @ loss.direction).detach()))
        for b in range(len(blocks))
        for t in range(ids.shape[1])
        if ids[b, t] in chosen
    ]
    assert len(values) >= 2
    found = float(loss.neutralisation(blocks).detach())
    assert found == pytest.approx(sum(values) / len(values), rel=1e-6)
    named = loss.losses(0)
    assert {name: weight for name, (_, weight) in named.items()} == {"neutralise": 1.0, "ewc": 0.5}


def test_direction(setting):
    model, _ = setting
    means = []
    for words in (
        ("he", "his", "man", "father", "king", "fathers", "kings"),
        ("she", "her", "woman", "mother", "queen", "mothers", "queens", "hers"),
    ):  # all that the vocabulary can write; the plurals and "hers" in two pieces
        ids = [model.tokenizer(word, return_tensors="pt")["input_ids"] for word in words]
        means.append(
            torch.stack([model.model.bert(i)[0][0, 1:-1].detach().mean(0) for i in ids]).mean(0)
        )
    expected = (means[0] - means[1]) / (means[0] - means[1]).norm()
    assert torch.allclose(gender_direction(model), expected)


def test_documents_and_refusals(setting, tiny_model, tiny_text, tmp_path, monkeypatch):
    counts: dict[str, int] = {}
    change = find_recipe("ase").documents(0, counts)
    given = [("he ran", True), ("the king", True), ("I saw her cry", True)]
    assert [text for text, _ in change(given)] == ["he ran", "she ran", "I saw her cry"]
    assert list(counts.values()) == [1, 1, 1]
    model, corpus = setting
    with pytest.raises(LanguageError, match="no word of the set 'stereotyped'"):
        AseLoss(find_recipe("ase"), model, corpus, 0, {})
    monkeypatch.chdir(tmp_path)
    base = ["--quiet", "--block-size", "32", "--steps", "2", "--measure-tokens", "0"]
    option = ["--recipe", "ase", "--recipe-option", "words=bant,cerd", "--batch-size", "4"]
    for kind, extra, code in (
        ("causal", [], 2),
        ("masked", ["--mask-words", "0.5"], 2),
        ("masked", ["--lora", "2"], 2),
        ("masked", ["--nc3", "0.1"], 0),
    ):
        command = ["finetune", str(tiny_model(kind)), str(tiny_text), *base, *option, *extra]
        assert main([*command, "--out", f"out{len(extra)}{code}"]) == code
    lines = read_log("out20/steps.jsonl")
    assert lines[0]["ewc/value"] == 0.0 < lines[1]["ewc/value"]
    assert lines[0]["neutralise/value"] > 0
