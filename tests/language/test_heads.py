"""A head is what its logits say: now, after training, and behind whatever wrapper."""

from __future__ import annotations

import pytest
import torch

from ncfast.language import LanguageError
from ncfast.language.models import LanguageModel
from ncfast.language.perturbation import Changes

from .test_models import family


def scramble(model):
    """Change every parameter that training would change."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)


class Odd(torch.nn.Module):
    """Put a part between head and logits, or beside the head."""

    def __init__(self, part):
        super().__init__()
        self.model, self.part, self.config = family("gpt2", 99, False), part, None
        self.config = self.model.config

    def get_input_embeddings(self):
        return self.model.get_input_embeddings()

    def get_output_embeddings(self):
        return self.model.get_output_embeddings()

    def forward(self, **inputs):
        output = self.model(**inputs)
        output.logits = self.part(output.logits)
        return output


class GPT2OddForCausalLM(Odd):
    pass


class LearnedScale(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.log_scale = torch.nn.Parameter(torch.zeros(()))

    def forward(self, logits):
        return logits * self.log_scale.exp()


class ScaleBuffer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("temperature", torch.ones(1))

    def forward(self, logits):
        return logits / self.temperature


class Bias(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(99))

    def forward(self, logits):
        return logits + self.bias


class Mixer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Parameter(torch.zeros(99, 99))

    def forward(self, logits):
        return logits + logits @ self.mix


@pytest.mark.parametrize(
    ("part", "named"),
    [
        (LearnedScale(), r"part\.log_scale"),
        (ScaleBuffer(), r"part\.temperature"),
        (Mixer(), r"part\.mix"),
    ],
)
def test_a_part_that_starts_as_the_identity_is_found(part, named, wordpiece_tokenizer):
    model = GPT2OddForCausalLM(part).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(LanguageError, match=f"when {named} changes"):
        LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_bias_outside_of_the_head_is_exact(wordpiece_tokenizer):
    model = GPT2OddForCausalLM(Bias()).eval()
    language_model = LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)
    assert torch.equal(language_model.head_bias, model.part.bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_scale_of_two_percent_is_seen_in_every_dtype(dtype, wordpiece_tokenizer):
    class Constant(torch.nn.Module):
        def forward(self, logits):
            return logits * 1.02

    model = GPT2OddForCausalLM(Constant()).to(dtype).eval()
    language_model = LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)
    assert language_model.logit_scale == pytest.approx(1.02, rel=1e-6)

    class OneColumn(torch.nn.Module):
        def forward(self, logits):
            logits = logits.clone()
            logits[..., 17] = torch.finfo(logits.dtype).min  # as Chameleon silences its images
            return logits

    with pytest.raises(LanguageError, match="in 1 of 99 columns"):
        LanguageModel.from_pretrained_model(
            GPT2OddForCausalLM(OneColumn()).to(dtype).eval(), wordpiece_tokenizer
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["bert", "deberta", "gpt2", "llama", "gemma2", "cohere"])
def test_rounding_of_a_dtype_passes(name, dtype, wordpiece_tokenizer):
    LanguageModel.from_pretrained_model(family(name, 99, True).to(dtype), wordpiece_tokenizer)


def test_changes_are_put_back_bit_for_bit_also_after_an_error():
    tensors = [torch.randn(5, 3), torch.randn(()), torch.randn(3000, 40).bfloat16()]
    before = [tensor.clone() for tensor in tensors]

    def fail():
        with Changes() as changes:
            for tensor in (*tensors, tensors[2]):  # the last twice, as when it is tied
                changes.add(tensor, 0.5)
                assert not torch.equal(tensor, before[0])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    for tensor, old in zip(tensors, before, strict=True):
        assert torch.equal(tensor, old)


def test_random_state_and_modes_stay(wordpiece_tokenizer):
    model = family("bert", 99, True).train()
    model.bert.encoder.layer[0].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    state = torch.get_rng_state()
    LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in model.named_modules()} == modes


def _replaced(model):
    model.lm_head = torch.nn.Linear(16, model.config.vocab_size, bias=False)


def _with_lora(model):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["lm_head"], init_lora_weights=False)
    peft.get_peft_model(model, config)


@pytest.mark.parametrize(
    "change", [_replaced, _with_lora, lambda model: model.resize_token_embeddings(999)]
)
def test_a_head_that_came_after_wrapping_is_noticed(change, wordpiece_tokenizer):
    """An adapter leaves the old head inside, whose features and matrix would leave it out."""
    from tests.training.families import build

    model = build("LlamaForCausalLM", vocab_size=len(wordpiece_tokenizer)).eval()
    language = LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)
    ids = torch.arange(5, 9)[None]
    language.features(ids)
    change(model)
    with pytest.raises(LanguageError, match=r"is another module .* than when it was wrapped"):
        language.features(ids)


def _double(module, args, outputs):
    outputs.logits = outputs.logits * 2
    return outputs


def _other_tokens(module, args, kwargs):
    return args, kwargs | {"input_ids": kwargs["input_ids"].flip(1)}


@pytest.mark.parametrize("hook", [_double, _other_tokens])
def test_a_hook_on_the_whole_model_that_changes_it_is_rejected(hook, wordpiece_tokenizer):
    from tests.training.families import build

    model = build("LlamaForCausalLM", vocab_size=len(wordpiece_tokenizer)).eval()
    model.register_forward_hook(lambda module, args, outputs: None)
    LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)
    if hook is _double:
        model.register_forward_hook(hook)
    else:
        model.register_forward_pre_hook(hook, with_kwargs=True)
    with pytest.raises(LanguageError, match="a forward hook on LlamaForCausalLM itself changes"):
        LanguageModel.from_pretrained_model(model, wordpiece_tokenizer)
