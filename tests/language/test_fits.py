"""A folder whose weights, configuration and tokenizer do not fit each other is one sentence."""

from __future__ import annotations

import json

import pytest
import torch

from ncfast.language import LanguageError
from ncfast.language.models import LanguageModel

transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SMALL = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=32,
)


def words_tokenizer(words):
    from tokenizers import Tokenizer, models

    vocabulary = {word: index for index, word in enumerate(words)}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]")),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


WORDS = [*SPECIAL, *(f"w{i}" for i in range(35))]
CLASSES = {
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=40, pad_token_id=0, tie_word_embeddings=False, **SMALL)
    ),
    "tied": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=40, pad_token_id=0, tie_word_embeddings=True, **SMALL)
    ),
    "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=40, **SMALL)),
    "pretraining": lambda: transformers.BertForPreTraining(
        transformers.BertConfig(vocab_size=40, **SMALL)
    ),
    "classifier": lambda: transformers.BertForSequenceClassification(
        transformers.BertConfig(vocab_size=40, **SMALL)
    ),
    "causal classifier": lambda: transformers.GPT2ForSequenceClassification(
        transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, pad_token_id=0)
    ),
    "encoder-decoder": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    ),
}


@pytest.fixture
def saved(tmp_path):
    """Return a function that saves a model, changes its files, and gives the folder."""

    def save(kind, change=None, config=None, tokenizer=None):
        torch.manual_seed(0)
        CLASSES[kind]().save_pretrained(tmp_path)
        (tokenizer or words_tokenizer(WORDS)).save_pretrained(tmp_path)
        file = tmp_path / "model.safetensors"
        if change is not None:
            weights = safetensors.load_file(file)
            change(weights)
            safetensors.save_file(weights, file, metadata={"format": "pt"})
        settings = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(settings | (config or {})))
        return tmp_path

    return save


def load(folder):
    return LanguageModel.load(folder, progress=False)


def without(*parts):
    def change(weights):
        for name in [n for n in weights if any(part in n for part in parts)]:
            del weights[name]

    return change


def holding(name, *shape, dtype=torch.float32):
    def change(weights):
        weights[name] = torch.zeros(shape, dtype=dtype)

    return change


def poisoned(weights):
    weights["model.layers.1.mlp.up_proj.weight"][3, 3] = float("nan")


QUERY = "model.layers.0.self_attn.q_proj"
# What is done to the file, to config.json, and the words of the error.
UNFIT = [
    ("llama", without("lm_head"), {}, r"lacks 1 weights .*lm_head\.weight; .*random"),
    ("llama", without("layers.1.mlp.up"), {}, r"lacks 1 weights .*layers\.1\.mlp\.up_proj"),
    ("llama", None, {"num_hidden_layers": 3}, r"lacks 9 weights .*layers\.2"),
    ("bert", without("predictions.bias"), {}, r"lacks 2 weights .*cls\.predictions\.bias"),
    ("tied", without("embed_tokens"), {}, r"lacks 2 weights .*lm_head\.weight"),
    ("llama", None, {"num_hidden_layers": 1}, r"holds 9 weights for which .*layers\.1"),
    ("llama", holding(f"{QUERY}.bias", 16), {}, r"for which .*q_proj\.bias"),
    ("llama", holding("lm_head.bias", 40), {}, r"for which .*lm_head\.bias"),
    ("llama", holding("model.layers.0.self_attn.q_norm.weight", 8), {}, r"for which .*q_norm"),
    ("llama", None, {"vocab_size": 30}, r"other shapes .*: \[40, 16\] in .*expected \[30, 16\]"),
    ("llama", None, {"hidden_size": 32}, r"other shapes .*lm_head\.weight: \[40, 16\]"),
    ("llama", holding("lm_head.weight", 50, 16), {}, r"lm_head\.weight: \[50, 16\] .*\[40, 16\]"),
    ("llama", holding("lm_head.weight", 40, 16, dtype=torch.int8), {}, r"lm_head\.weight as I8"),
    (
        "llama",
        holding(f"{QUERY}.weight", 16, 16, dtype=torch.float8_e4m3fn),
        {},
        r"q_proj\.weight as F8_E4M3, .*no quantization_config",
    ),
    ("llama", poisoned, {}, r"NaN or Inf .*\(model\.layers\.1\.mlp\.up_proj\.weight holds"),
    ("classifier", None, {}, r"is a sequence classifier .*model\.base_model.*statistics_of_files"),
    ("causal classifier", None, {}, r"is a sequence classifier .*statistics_of_files"),
    ("encoder-decoder", None, {}, r"is an encoder-decoder \(T5.*export .*statistics_of_files"),
]


@pytest.mark.parametrize(("kind", "change", "config", "message"), UNFIT)
def test_weights_that_do_not_fit_are_named(saved, kind, change, config, message):
    folder = saved(kind, change, config)
    with pytest.raises(LanguageError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "change", "config"),
    [
        ("llama", None, {}),
        ("tied", without("lm_head"), {}),
        ("pretraining", None, {}),  # its other head and its pooler stay unused
        ("llama", holding(f"{QUERY[:-7]}.rotary_emb.inv_freq", 4), {}),
        ("llama", None, {"tie_word_embeddings": True}),  # the file has both, so they stay two
    ],
)
def test_weights_that_fit_load(saved, kind, change, config):
    folder = saved(kind, change, config)
    model, stored = load(folder), safetensors.load_file(folder / "model.safetensors")
    name = {"llama": "lm_head.weight", "tied": "model.embed_tokens.weight"}.get(
        kind, "bert.embeddings.word_embeddings.weight"
    )
    assert torch.equal(model.head_weight, stored[name])
    assert model.notes == ()


def test_a_pickled_checkpoint_of_integers_is_named(saved):
    folder = saved("llama")
    weights = safetensors.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert load(folder).kind == "causal"
    weights["lm_head.weight"] = weights["lm_head.weight"].mul(10).char()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(LanguageError, match=r"bin of .*lm_head\.weight as torch\.int8"):
        load(folder)


UNFIT_TOKENIZERS = [
    ("llama", [*WORDS, "one", "more"], r"knows 42 ids but .*40 rows: 2 tokens .*'one' \(40\)"),
    ("llama", WORDS[:12], r"knows 12 ids but .*40 rows, more than twice"),
    ("llama", SPECIAL, r"knows 5 special tokens and no word"),
    ("bert", [*WORDS[5:], *SPECIAL], r"padding token .*'\[PAD\]' \(35\), .*padded with row 0"),
]


@pytest.mark.parametrize(("kind", "words", "message"), UNFIT_TOKENIZERS)
def test_the_tokenizer_of_another_model_is_rejected(saved, kind, words, message):
    folder = saved(kind, tokenizer=words_tokenizer(words))
    with pytest.raises(LanguageError, match=message):
        load(folder)
    model = CLASSES[kind]()
    with pytest.raises(LanguageError, match=message):  # in memory, too
        LanguageModel.from_pretrained_model(model, words_tokenizer(words))


def test_a_folder_without_a_tokenizer_is_rejected(saved):
    folder = saved("bert")
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(LanguageError, match=r"special tokens and no word|cannot load the model"):
        load(folder)


def test_special_tokens_beyond_the_embedding_stay_unused(saved):
    tokenizer = words_tokenizer(WORDS)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra>"]})
    language = load(saved("bert", tokenizer=tokenizer))
    assert any("41 ids but the head has 40 rows" in note for note in language.notes)
    with pytest.raises(LanguageError, match=r"input_ids hold 40; .*has 40 rows"):
        language.features(torch.tensor([[5, 40]]))
    tokenizer.add_special_tokens({"mask_token": "<mask>"})  # which blocks of text hold
    with pytest.raises(LanguageError, match=r"tokens have none, .*'<mask>' \(41\)"):
        load(saved("bert", tokenizer=tokenizer))


def test_padding_that_was_added_to_a_causal_model_is_its_end_token(saved):
    tokenizer = words_tokenizer(WORDS)
    tokenizer.add_special_tokens({"pad_token": "<pad>", "eos_token": "[SEP]"})
    language = load(saved("llama", tokenizer=tokenizer))
    assert language.tokenizer.pad_token_id == 3
    with pytest.raises(LanguageError, match=r"'<pad>' \(40\)"):  # a user's own is not changed
        LanguageModel.from_pretrained_model(CLASSES["llama"](), tokenizer)


def test_special_tokens_that_are_words_are_noted(saved):
    language = load(saved("llama", config={"eos_token_id": [3, 17], "bos_token_id": 2}))
    assert [note for note in language.notes if "eos_token_id 17 is 'w12'" in note]
    assert "bos" not in str(language.notes)
