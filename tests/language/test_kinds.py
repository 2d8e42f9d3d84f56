"""A kind is what the model does, and labels that contradict it are rejected."""

from __future__ import annotations

import pytest
import torch

from ncfast.language import LanguageError
from ncfast.language.labels import Labeller
from ncfast.language.models import LanguageModel

from .test_models import family

transformers = pytest.importorskip("transformers")


def test_a_bidirectional_model_is_masked_whatever_its_name(wordpiece_tokenizer):
    vocab_size = len(wordpiece_tokenizer)
    model = transformers.XLMWithLMHeadModel(
        transformers.XLMConfig(vocab_size=vocab_size, emb_dim=32, n_layers=2, n_heads=2)
    ).eval()
    found = LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)
    assert (found.kind, found.sees_later) == ("masked", True)
    assert any("sees the tokens after a position" in note for note in found.notes)
    with pytest.raises(LanguageError, match="labels='next' with XLMWithLMHeadModel, which sees"):
        Labeller(found, "next")


def test_labels_that_a_causal_model_cannot_know_are_rejected(wordpiece_tokenizer):
    model = family("gpt2", len(wordpiece_tokenizer), True)
    found = LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)
    assert (found.kind, found.sees_later) == ("causal", False)
    for labels in ("masked", "self"):
        with pytest.raises(LanguageError, match=f"labels='{labels}' with GPT2LMHeadModel"):
            Labeller(found, labels)


def test_a_masked_class_that_sees_nothing_later_is_rejected(wordpiece_tokenizer):
    config = transformers.BertConfig(
        vocab_size=len(wordpiece_tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        is_decoder=True,
    )
    model = transformers.BertForMaskedLM(config).eval()
    with pytest.raises(LanguageError, match="do not see the tokens after a position"):
        LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_that_show_nothing_reject_nothing(tiny_model, dtype):
    # Weights of 0.02 move earlier features by less than these dtypes hold.
    model = LanguageModel.load(tiny_model("masked"), dtype=dtype, progress=False)
    assert model.kind == "masked"
    assert any("could not be told" in note for note in model.notes) or model.sees_later
