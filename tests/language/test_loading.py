"""Loading: a model's own head, its fingerprint, and what cannot be loaded, in a sentence."""

from __future__ import annotations

import json

import pytest
import torch

from ncfast.language import LanguageError
from ncfast.language.models import LanguageModel
from tests.language.test_models import SMALL, family

transformers = pytest.importorskip("transformers")


def test_saved_model_loads_with_its_own_head(wordpiece_tokenizer, tmp_path):
    model = family("bert", len(wordpiece_tokenizer), True)
    model.save_pretrained(tmp_path)
    wordpiece_tokenizer.save_pretrained(tmp_path)
    language_model = LanguageModel.load(tmp_path, progress=False)
    torch.testing.assert_close(language_model.head_bias, model.cls.predictions.decoder.bias)
    assert language_model.kind == "masked"
    assert language_model.mask_id is not None


def test_fingerprint_follows_the_weights(wordpiece_tokenizer, tmp_path):
    model = family("gpt2", len(wordpiece_tokenizer), True)
    model.save_pretrained(tmp_path)
    wordpiece_tokenizer.save_pretrained(tmp_path)
    loaded = LanguageModel.load(tmp_path, progress=False)
    before = loaded.fingerprint
    assert before == LanguageModel.from_pretrained_model(model, wordpiece_tokenizer).fingerprint
    with torch.no_grad():
        loaded.model.transformer.ln_f.bias.add_(0.01)
    assert loaded.fingerprint != before


def test_missing_head_is_an_error_not_a_random_head(wordpiece_tokenizer, tmp_path):
    config = transformers.BertConfig(vocab_size=len(wordpiece_tokenizer), **SMALL)
    transformers.BertModel(config).save_pretrained(tmp_path)
    wordpiece_tokenizer.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["architectures"] = ["BertForMaskedLM"]  # a lie: no head was saved
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(LanguageError, match=r"lacks \d+ weights .*cls\.predictions"):
        LanguageModel.load(tmp_path, progress=False)
    settings["architectures"] = None  # nothing claimed: then it is an encoder, and says so
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert LanguageModel.load(tmp_path, progress=False).kind == "encoder"


def test_a_folder_of_models_names_one(tmp_path):
    for name in ("best", "model"):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "config.json").write_text("{}")
    with pytest.raises(LanguageError, match=r"neither config\.json .*, for example .*out/model$"):
        LanguageModel.load(tmp_path / "out", progress=False)
    with pytest.raises(LanguageError, match=r"neither config\.json .* as transformers saves it$"):
        LanguageModel.load(tmp_path, progress=False)


def test_other_models_and_places_are_refused(wordpiece_tokenizer, tmp_path):
    config = transformers.BertConfig(vocab_size=50, **SMALL)
    classifier = transformers.BertForSequenceClassification(config)
    with pytest.raises(LanguageError, match="not a masked or causal language model"):
        LanguageModel.from_pretrained_model(classifier, wordpiece_tokenizer)
    two_heads = transformers.GPT2DoubleHeadsModel(
        transformers.GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=1)
    )
    with pytest.raises(LanguageError, match="not a masked or causal language model"):
        LanguageModel.from_pretrained_model(two_heads, wordpiece_tokenizer)
    with pytest.raises(LanguageError, match="there is no model folder"):
        LanguageModel.load(tmp_path / "absent")
    with pytest.raises(LanguageError, match=r"neither config\.json nor a \.gguf"):
        LanguageModel.load(tmp_path)
    with pytest.raises(LanguageError, match="feature_point"):
        LanguageModel.from_pretrained_model(
            transformers.BertForMaskedLM(config), wordpiece_tokenizer, feature_point="middle"
        )


def test_unreachable_hub_is_one_sentence(monkeypatch):
    from transformers import AutoConfig

    def unreachable(*args, **kwargs):
        raise OSError("We couldn't connect to the hub. And much more\nover several lines.")

    monkeypatch.setattr(AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(LanguageError, match="couldn't connect to the hub") as caught:
        LanguageModel.load("nobody/nothing")
    assert "\n" not in str(caught.value)
    assert "demo:minilm" in str(caught.value)


@pytest.mark.network
def test_demo_bert_tiny_predicts_with_our_logits():
    language_model = LanguageModel.load("demo:bert-tiny", progress=False)
    assert (language_model.vocab_size, language_model.hidden_size) == (30522, 128)
    encoded = language_model.tokenizer("paris is the capital of france", return_tensors="pt")
    with torch.no_grad():
        features = language_model.features(encoded["input_ids"], encoded["attention_mask"])
        ours = features @ language_model.head_weight.T + language_model.head_bias
        theirs = language_model.model(**encoded).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert any("heads.pt" in note for note in language_model.notes)
