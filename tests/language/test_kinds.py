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


@pytest.mark.parametrize("name", ["MraModel", "BertModel"])
def test_an_encoder_that_reads_no_context_is_rejected(wordpiece_tokenizer, name):
    """MRA without its kernel by itself; BERT with its attention's output taken away."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = getattr(transformers, name.replace("Model", "Config"))(
        vocab_size=len(wordpiece_tokenizer),
        intermediate_size=48,
        pad_token_id=wordpiece_tokenizer.pad_token_id,
        **sizes,
    )
    model = getattr(transformers, name)(config).eval()
    if name == "BertModel":
        found = LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)
        assert (found.kind, found.sees_later) == ("encoder", True)
        for layer in model.encoder.layer:
            torch.nn.init.zeros_(layer.attention.output.dense.weight)
    with pytest.raises(LanguageError, match=f"features of {name} depend on no token but a posit"):
        LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)


def test_a_causal_encoder_is_taken_and_said_to_be_one(wordpiece_tokenizer):
    config = transformers.GPT2Config(
        vocab_size=len(wordpiece_tokenizer), n_embd=32, n_layer=1, n_head=2
    )
    found = LanguageModel.from_pretrained_model(
        transformers.GPT2Model(config).eval(), wordpiece_tokenizer
    )
    assert (found.kind, found.sees_later) == ("encoder", False)
    assert any("(probed): it is causal" in note for note in found.notes)


def test_a_causal_model_without_context_is_measured_and_said_to_be_one(wordpiece_tokenizer):
    model = family("gpt2", len(wordpiece_tokenizer), True)
    for layer in model.transformer.h:
        torch.nn.init.zeros_(layer.attn.c_proj.weight)
        torch.nn.init.zeros_(layer.attn.c_proj.bias)
    found = LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)
    assert (found.kind, found.sees_later) == ("causal", False)
    assert any("a table of which token follows which" in note for note in found.notes)
