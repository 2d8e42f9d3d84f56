"""Heads behind adapters: exact with gradients, or rejected by name."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from ncfast.language import LanguageError
from ncfast.language.models import LanguageModel
from tests.language.test_heads import scramble

from .test_models import family, tokens

peft = pytest.importorskip("peft")


def adapted(config, tied=False, name="llama", vocab_size=99):
    return peft.get_peft_model(family(name, vocab_size, tied), config).eval()


def lora(**options):
    return peft.LoraConfig(target_modules=["lm_head"], r=4, init_lora_weights=False, **options)


def several(tied=False):
    model = adapted(lora())
    model.add_adapter("second", lora(lora_bias=True))
    model.base_model.set_adapter(["default", "second"])
    return model


def merged(config):
    model = adapted(config)
    model.merge_adapter()
    return model


EXACT = {
    "lora": lambda: adapted(lora()),
    "lora, rank-stabilised": lambda: adapted(lora(use_rslora=True)),
    "lora with a bias": lambda: adapted(lora(lora_bias=True)),
    "dora": lambda: adapted(lora(use_dora=True)),
    "dora, merged": lambda: merged(lora(use_dora=True)),
    "lora, merged": lambda: merged(lora(lora_bias=False)),
    "several adapters": several,
    "loha": lambda: adapted(peft.LoHaConfig(target_modules=["lm_head"], init_weights=False)),
    "lokr": lambda: adapted(peft.LoKrConfig(target_modules=["lm_head"], init_weights=False)),
    "vera": lambda: adapted(peft.VeraConfig(target_modules=["lm_head"], init_weights=False)),
    "modules to save": lambda: adapted(
        peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])
    ),
    "trainable tokens": lambda: adapted(
        peft.TrainableTokensConfig(target_modules=["lm_head"], token_indices=[3, 7, 50])
    ),
    "trainable tokens, tied": lambda: adapted(
        peft.LoraConfig(target_modules=["q_proj"], trainable_token_indices=[3, 7, 50]), tied=True
    ),
    "dora on the attention": lambda: adapted(
        peft.LoraConfig(target_modules=["q_proj"], use_dora=True)
    ),
}

REJECTED = {
    "ia3": lambda: adapted(peft.IA3Config(target_modules=["lm_head"], feedforward_modules=[])),
    "oft": lambda: adapted(peft.OFTConfig(target_modules=["lm_head"], oft_block_size=4)),
    "boft": lambda: adapted(peft.BOFTConfig(target_modules=["lm_head"], boft_block_size=4)),
    "hra": lambda: adapted(peft.HRAConfig(target_modules=["lm_head"], r=4)),
}


@pytest.mark.parametrize("name", EXACT)
def test_an_adapted_head_is_exact_with_gradients(name, wordpiece_tokenizer):
    model = EXACT[name]()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    language_model = LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), f"the check changed {key}"
    scramble(model)
    ids = tokens(99)[0]
    weights = torch.randn(3, 11, 99)
    gradients = []
    for ours in (True, False):
        model.zero_grad()
        if ours:
            x, weight, bias = language_model.scaled(language_model.features(ids))
            logits = linear(x, weight, bias)
            found = logits.detach()
        else:
            logits = model(input_ids=ids).logits
        if "merged" in name:  # peft trains nothing of a merged adapter
            assert not logits.requires_grad
            continue
        (logits * weights).sum().backward()
        named = model.named_parameters()
        gradients.append({n: p.grad.clone() for n, p in named if p.grad is not None})
    torch.testing.assert_close(found, logits.detach(), rtol=2e-5, atol=2e-5)
    if "merged" in name:
        return
    assert gradients[0]
    assert gradients[0].keys() == gradients[1].keys()
    for key, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][key], rtol=1e-3, atol=1e-3, msg=key)


@pytest.mark.parametrize("name", REJECTED)
def test_an_adapter_that_is_no_added_matrix_is_rejected_by_name(name, wordpiece_tokenizer):
    with pytest.raises(LanguageError, match=rf"(?i){name}") as error:
        LanguageModel.from_pretrained_model(REJECTED[name](), wordpiece_tokenizer)
    assert "\n" not in str(error.value)


def test_dropout_on_the_head_is_exact_in_eval_and_rejected_in_training(wordpiece_tokenizer):
    model = adapted(lora(lora_dropout=0.3))
    language_model = LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)
    ids = tokens(99)[0]
    with torch.no_grad():
        ours = linear(language_model.features(ids), language_model.head_weight)
        torch.testing.assert_close(ours, model(input_ids=ids).logits, rtol=1e-5, atol=1e-5)
    model.train()
    with pytest.raises(LanguageError, match=r"lm_head\.lora_dropout\.default works between"):
        language_model.features(ids)
    # Dropout elsewhere is nobody's business.
    model = adapted(peft.LoraConfig(target_modules=["q_proj"], lora_dropout=0.3)).train()
    LanguageModel.from_pretrained_model(model, wordpiece_tokenizer).features(ids)


def test_adapted_embeddings_of_an_encoder_are_its_rows(wordpiece_tokenizer):
    import transformers

    encoder = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=99, hidden_size=32, num_hidden_layers=1, num_attention_heads=2
        )
    )
    config = peft.LoraConfig(target_modules=["word_embeddings"], init_lora_weights=False)
    model = peft.get_peft_model(encoder, config).eval()
    language_model = LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)
    scramble(model)
    words = model.get_base_model().get_input_embeddings()
    torch.testing.assert_close(language_model.head_weight, words(torch.arange(99)))
    language_model.head_weight.sum().backward()
    assert words.lora_embedding_A["default"].grad.abs().sum() > 0
    words.get_delta_weight = lambda name: torch.zeros(99, 32)  # an adapter that forgets a part
    with pytest.raises(LanguageError, match="does not look up the rows"):
        LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)
