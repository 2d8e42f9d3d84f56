"""Features times head must be the model's own logits, for every family and every kind of head."""

from __future__ import annotations

import pytest
import torch

from ncfast.language import LanguageError
from ncfast.language.models import LanguageModel

transformers = pytest.importorskip("transformers")

SMALL = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=40,
)
DECODER = dict(SMALL, num_key_value_heads=1, head_dim=16, max_position_embeddings=64)


def family(name: str, vocab_size: int, tied: bool):
    t = transformers
    common = dict(vocab_size=vocab_size, tie_word_embeddings=tied, pad_token_id=0)
    deberta = dict(SMALL, relative_attention=True, pos_att_type=["p2c", "c2p"])
    builders = {
        "bert": lambda: t.BertForMaskedLM(t.BertConfig(**common, **SMALL)),
        "roberta": lambda: t.RobertaForMaskedLM(t.RobertaConfig(**common, **SMALL)),
        "distilbert": lambda: t.DistilBertForMaskedLM(
            t.DistilBertConfig(**common, dim=32, n_layers=2, n_heads=2, hidden_dim=48)
        ),
        "electra": lambda: t.ElectraForMaskedLM(
            t.ElectraConfig(**common, embedding_size=24, **SMALL)
        ),
        "deberta-legacy": lambda: t.DebertaV2ForMaskedLM(
            t.DebertaV2Config(**common, **deberta, legacy=True)
        ),
        "deberta": lambda: t.DebertaV2ForMaskedLM(
            t.DebertaV2Config(**common, **deberta, legacy=False)
        ),
        "albert": lambda: t.AlbertForMaskedLM(t.AlbertConfig(**common, embedding_size=20, **SMALL)),
        "gpt2": lambda: t.GPT2LMHeadModel(
            t.GPT2Config(**common, n_embd=32, n_layer=2, n_head=2, n_positions=64)
        ),
        "gpt-neox": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**common, **SMALL)),
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**common, **DECODER)),
        "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**common, **DECODER)),
        "gemma2": lambda: t.Gemma2ForCausalLM(
            t.Gemma2Config(**common, **DECODER, final_logit_softcapping=0.5)
        ),
        "cohere": lambda: t.CohereForCausalLM(t.CohereConfig(**common, **SMALL, logit_scale=0.25)),
        "granite": lambda: t.GraniteForCausalLM(
            t.GraniteConfig(**common, **SMALL, logits_scaling=3.0)
        ),
    }
    torch.manual_seed(0)
    model = builders[name]().eval()
    with torch.no_grad():  # zero biases and unit layer norms would hide mistakes
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


MASKED = ["bert", "roberta", "distilbert", "electra", "deberta-legacy", "deberta", "albert"]
CAUSAL = ["gpt2", "gpt-neox", "llama", "qwen2", "gemma2"]


def tokens(vocab_size: int, start: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(start, vocab_size, (3, 11), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 7:] = 0
    return input_ids, attention_mask


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", MASKED + CAUSAL)
def test_features_times_head_are_the_logits(name, tied, wordpiece_tokenizer):
    vocab_size = len(wordpiece_tokenizer)
    model = family(name, vocab_size, tied)
    language_model = LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)
    input_ids, attention_mask = tokens(vocab_size)
    with torch.no_grad():
        features = language_model.features(input_ids, attention_mask)
        logits = features @ language_model.head_weight.T
        if language_model.head_bias is not None:
            logits = logits + language_model.head_bias
        if language_model.softcap:
            logits = language_model.softcap * torch.tanh(logits / language_model.softcap)
        expected = model(input_ids=input_ids, attention_mask=attention_mask).logits
    kept = attention_mask.bool()
    torch.testing.assert_close(logits[kept], expected[kept], rtol=1e-5, atol=1e-5)
    assert language_model.kind == ("masked" if name in MASKED else "causal")
    assert (language_model.vocab_size, language_model.hidden_size) == (
        vocab_size,
        features.shape[-1],
    )
    assert (language_model.softcap > 0) == (name == "gemma2")
    # A head that is tied by construction (a matmul with the word embeddings) cannot be untied.
    assert language_model.tied == (tied or name == "deberta")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "scale"), [("cohere", 0.25), ("granite", 1 / 3)])
def test_a_constant_scale_is_exact(name, scale, dtype, wordpiece_tokenizer):
    model = family(name, len(wordpiece_tokenizer), True).to(dtype)
    language_model = LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)
    assert language_model.logit_scale == scale
    assert any(f"scaled by {scale:g}" in note for note in language_model.notes)
    input_ids, attention_mask = tokens(len(wordpiece_tokenizer))
    with torch.no_grad():
        features = language_model.features(input_ids, attention_mask)
        x, weight, bias = language_model.scaled(features)
        ours = torch.nn.functional.linear(x.float(), weight.float(), bias)
        theirs = model(input_ids=input_ids, attention_mask=attention_mask).logits.float()
    kept = attention_mask.bool()
    rounding = 2e-6 if dtype == torch.float32 else 2**-7
    assert (ours - theirs)[kept].norm() <= rounding * theirs[kept].norm()
    # Features stay what the head multiplies: only the loss sees the scale.
    assert torch.equal(weight, model.get_output_embeddings().weight)


def test_logits_are_never_born(wordpiece_tokenizer):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        width = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.dim() == 3:
                self.width = max(self.width, result.shape[-1])
            return result

    vocab_size = len(wordpiece_tokenizer)
    model = family("bert", vocab_size, True)
    language_model = LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)
    input_ids, attention_mask = tokens(vocab_size)
    with torch.no_grad(), Largest() as watched:
        language_model.features(input_ids, attention_mask)
    assert 0 < watched.width < vocab_size
    with torch.no_grad(), Largest() as watched:
        model(input_ids=input_ids, attention_mask=attention_mask)
    assert watched.width == vocab_size  # the watcher does see logits when there are any


def test_gradients_reach_the_encoder_and_modes_stay(wordpiece_tokenizer):
    vocab_size = len(wordpiece_tokenizer)
    model = family("bert", vocab_size, True).train()
    language_model = LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)
    assert model.training
    features = language_model.features(*tokens(vocab_size))
    features.square().sum().backward()
    assert model.bert.encoder.layer[0].attention.self.query.weight.grad.abs().sum() > 0
    assert not model.cls.predictions.decoder._forward_pre_hooks
    assert model(input_ids=tokens(vocab_size)[0]).logits.shape[-1] == vocab_size


def test_encoder_out_is_the_hidden_state_before_the_transform(wordpiece_tokenizer):
    vocab_size = len(wordpiece_tokenizer)
    model = family("bert", vocab_size, True)
    language_model = LanguageModel.from_pretrained_model(
        model, wordpiece_tokenizer, feature_point="encoder_out"
    )
    input_ids, attention_mask = tokens(vocab_size)
    with torch.no_grad():
        features = language_model.features(input_ids, attention_mask)
        expected = model.bert(input_ids=input_ids, attention_mask=attention_mask)[0]
        head_input = LanguageModel.from_pretrained_model(model, wordpiece_tokenizer).features(
            input_ids, attention_mask
        )
    torch.testing.assert_close(features, expected)
    assert (features - head_input).abs().max() > 0.1
    assert "encoder_out" in language_model.notes[0]


def test_encoder_out_needs_equal_widths(wordpiece_tokenizer):
    model = family("electra", len(wordpiece_tokenizer), True)
    with pytest.raises(LanguageError, match=r"width 32 .* width 24"):
        LanguageModel.from_pretrained_model(model, wordpiece_tokenizer, feature_point="encoder_out")


def test_bare_encoder_says_so_first(wordpiece_tokenizer, tmp_path):
    config = transformers.BertConfig(vocab_size=len(wordpiece_tokenizer), **SMALL)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    wordpiece_tokenizer.save_pretrained(tmp_path)
    language_model = LanguageModel.load(tmp_path, progress=False)
    assert language_model.kind == "encoder"
    assert "INPUT word embeddings" in language_model.notes[0]
    assert language_model.head_weight is language_model.model.get_input_embeddings().weight
    assert language_model.head_bias is None
    assert not language_model.model.training
    input_ids, attention_mask = tokens(len(wordpiece_tokenizer))
    assert language_model.features(input_ids, attention_mask).shape == (3, 11, 32)


def test_padded_vocabulary_is_noted(wordpiece_tokenizer):
    known = len(wordpiece_tokenizer)
    model = family("bert", known + 7, True)
    language_model = LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)
    assert language_model.vocab_size == known + 7
    assert language_model.out_of_vocabulary_from == known
    assert any("last 7 of" in note for note in language_model.notes)


def test_positions_are_counted_as_the_family_counts_them(wordpiece_tokenizer):
    for name, expected in [("bert", 40), ("roberta", 40 - 0 - 1), ("gpt2", 64)]:
        model = family(name, len(wordpiece_tokenizer), True)
        language_model = LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)
        assert language_model.max_positions == expected
        assert language_model.features(torch.full((1, expected), 7)).shape[1] == expected
        with pytest.raises(LanguageError, match="smaller block size"):
            language_model.features(torch.full((1, expected + 1), 7))


def test_lora_on_the_head_enters_the_head_weight(wordpiece_tokenizer):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = family("llama", len(wordpiece_tokenizer), False)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["lm_head", "q_proj"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    language_model = LanguageModel.from_pretrained_model(adapted, wordpiece_tokenizer)
    input_ids, attention_mask = tokens(len(wordpiece_tokenizer))
    with torch.no_grad():
        ours = language_model.features(input_ids, attention_mask) @ language_model.head_weight.T
        theirs = adapted.eval()(input_ids=input_ids, attention_mask=attention_mask).logits
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-5)


def test_features_take_what_the_forward_pass_takes(wordpiece_tokenizer):
    vocab_size = len(wordpiece_tokenizer)
    input_ids, attention_mask = tokens(vocab_size)
    types = (torch.arange(11) > 4).long().expand(3, -1)
    restarting = torch.arange(11).remainder(6).expand(3, -1)
    cases = [
        ("bert", dict(attention_mask=attention_mask, token_type_ids=types)),
        ("llama", dict(attention_mask=attention_mask, position_ids=restarting)),
        ("gpt2", dict(position_ids=restarting)),
    ]
    for name, inputs in cases:
        model = family(name, vocab_size, True)
        language_model = LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)
        with torch.no_grad():
            features = language_model.features(input_ids, **inputs)
            plain = language_model.features(input_ids, inputs.get("attention_mask"))
            words = model.get_input_embeddings()(input_ids)
            embedded = language_model.features(inputs_embeds=words, **inputs)
            expected = model(input_ids=input_ids, **inputs).logits
            logits = torch.nn.functional.linear(
                features, language_model.head_weight, language_model.head_bias
            )
        kept = inputs.get("attention_mask", torch.ones_like(input_ids)).bool()
        torch.testing.assert_close(logits[kept], expected[kept], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(embedded[kept], features[kept], rtol=1e-5, atol=1e-5)
        assert (plain - features)[kept].abs().max() > 1e-2  # the argument does something here
    with pytest.raises(LanguageError, match="neither of input_ids and inputs_embeds"):
        language_model.features()
    with pytest.raises(LanguageError, match="both of input_ids and inputs_embeds"):
        language_model.features(input_ids, inputs_embeds=words)
