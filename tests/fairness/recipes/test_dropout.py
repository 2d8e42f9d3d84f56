"""Both shares of dropout: where they go in each family, and back afterwards."""

from __future__ import annotations

import pytest
import torch
import transformers as t

from ncfast.fairness.recipes import RecipeError, find_recipe
from ncfast.language import LanguageModel


def shares(model):
    return {n: m.p for n, m in model.model.named_modules() if isinstance(m, torch.nn.Dropout)}


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_shares(tiny_model, kind):
    model = LanguageModel.load(tiny_model(kind), progress=False)
    before = shares(model)
    restore = find_recipe("dropout", {"hidden": 0.3, "attention": "0.25"}).prepare(model)
    weights = ("self.dropout",) if kind == "masked" else ("attn_dropout",)
    found = shares(model)
    assert found == {n: 0.25 if n.endswith(weights) else 0.3 for n in before}
    assert set(found.values()) == {0.25, 0.3}
    restore()
    assert shares(model) == before


def test_the_loss_changes_and_nothing_stays(tiny_model):
    model = LanguageModel.load(tiny_model("masked"), progress=False)
    ids, mask = torch.arange(5, 15)[None], torch.ones(1, 10, dtype=torch.int64)

    def features():
        model.model.train()
        torch.manual_seed(0)
        return model.features(ids, mask).detach()

    plain = features()
    restore = find_recipe("dropout", {"hidden": 0, "attention": 0.9}).prepare(model)
    assert not torch.equal(features(), plain)
    restore()
    assert torch.equal(features(), plain)


def test_a_model_without_dropout_of_hidden_units(tiny_model):
    tokenizer = LanguageModel.load(tiny_model("causal"), progress=False).tokenizer
    small = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    llama = t.LlamaForCausalLM(t.LlamaConfig(vocab_size=len(tokenizer), **small))
    model = LanguageModel.from_pretrained_model(llama.eval(), tokenizer)
    with pytest.raises(RecipeError, match="no dropout of hidden units"):
        find_recipe("dropout").prepare(model)
    with pytest.raises(RecipeError, match="hidden=1"):
        find_recipe("dropout", {"hidden": 1})
