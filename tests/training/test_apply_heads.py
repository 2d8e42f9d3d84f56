"""Heads that are just their matrix today: apply_to follows what stands beside it, or rejects it."""

from __future__ import annotations

import collections
import copy
import functools
import inspect

import pytest
import torch
from torch import nn

import ncfast
from ncfast.language import LanguageError
from tests.training.families import VOCABULARY, batch, build
from tests.training.test_apply import assert_same_step, step

transformers = pytest.importorskip("transformers")


class _Head(nn.Linear):
    """Have a matrix, and something beside it that changes nothing yet."""

    def __init__(self, beside: str) -> None:
        super().__init__(16, VOCABULARY, bias=False)
        for name, value in {
            "scale": torch.ones(()),
            "columns": torch.ones(VOCABULARY),
            "shift": torch.zeros(16),
            "up": torch.zeros(VOCABULARY, 2),
            "down": torch.randn(2, 16),
            "temperature": torch.zeros(16),
        }.items():
            if name in beside:
                self.register_parameter(name, nn.Parameter(value))
        self.beside, self.rate = beside, 0.5

    def forward(self, x):
        if self.beside == "dropout":
            return super().forward(nn.functional.dropout(x, self.rate, self.training))
        if self.beside == "shift":
            return super().forward(x + self.shift)
        logits = super().forward(x)
        if self.beside == "up, down":
            return logits + x @ self.down.T @ self.up.T
        if self.beside == "temperature":
            return logits * (1 + (x * self.temperature).sum(-1, keepdim=True))
        return logits * (self.scale if self.beside == "scale" else self.columns)


BESIDE = ("scale", "columns", "shift", "up, down", "temperature")


def with_head(head: nn.Module):
    model = build("LlamaForCausalLM")
    head.weight = model.lm_head.weight
    model.lm_head = head
    return model


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("first", ["apply", "head"])
def test_a_head_that_starts_as_its_matrix_is_rejected_by_what_works_beside_it(beside, first):
    named = beside.split(", ")[0]
    model = build("LlamaForCausalLM")
    if first == "apply":  # a head that comes later is looked at too
        ncfast.apply_to(model)
    head = _Head(beside)
    head.weight = model.lm_head.weight
    model.lm_head = head
    before = {name: value.clone() for name, value in model.state_dict().items()}
    again = functools.partial(model, **batch())
    look = again if first == "apply" else functools.partial(ncfast.apply_to, model)
    with pytest.raises(LanguageError, match=rf"when {named} of its head changes"):
        look()
    assert "forward" not in vars(model.lm_head)
    if first == "head":
        assert "forward" not in vars(model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert model.lm_head.training


def test_a_head_with_noise_is_its_matrix_in_eval_mode_only():
    model, inputs = with_head(_Head("dropout")), batch()
    ncfast.apply_to(model)
    with pytest.raises(LanguageError, match=r"in train mode the head of LlamaForCausalLM"):
        model(**inputs)
    assert model.eval()(**inputs).logits is None


def _hooked(head):
    head.register_forward_hook(lambda module, args, logits: logits * 1.5)
    return head


def _before(head):
    head.register_forward_pre_hook(lambda module, args: (args[0] * 1.5,))
    return head


FOLLOWED = {
    "weight_norm": nn.utils.parametrizations.weight_norm,
    "a hook": _hooked,
    "a hook before": _before,
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_what_torch_puts_around_a_head_is_followed(name):
    model, inputs = build("LlamaForCausalLM"), batch()
    model.lm_head = FOLLOWED[name](model.lm_head)
    own = step(model, inputs)
    with ncfast.apply_to(model):
        assert_same_step(own, step(model, inputs))


def a_class(loss):
    """Return a class that computes logits and loss by itself."""

    class Own(transformers.LlamaForCausalLM):
        def forward(self, input_ids=None, attention_mask=None, labels=None, **kwargs):
            x = self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
            return loss(self, x, labels)

    Own.__name__ = "LlamaForCausalLM"
    model = Own(build("LlamaForCausalLM").config).train()
    return model


def _shifted(model, logits, labels):
    return model.loss_function(logits, labels, vocab_size=VOCABULARY)


def _without_gradient(model, x, labels):
    with torch.no_grad():
        logits = model.lm_head(x)
    loss = None if labels is None else _shifted(model, logits, labels) + x.square().mean()
    return transformers.modeling_outputs.CausalLMOutput(loss=loss, logits=logits)


Named = collections.namedtuple("Named", "loss logits")


def _named(model, x, labels):
    logits = model.lm_head(x)
    return Named(None if labels is None else _shifted(model, logits, labels), logits)


def test_a_head_without_gradient_gets_none():
    model, inputs = a_class(_without_gradient), batch()
    own = step(model, inputs)
    assert "lm_head.weight" not in own[1]
    with ncfast.apply_to(model):
        assert_same_step(own, step(model, inputs))


def test_a_named_tuple_stays_one():
    model, inputs = a_class(_named), batch()
    own = model(**inputs)
    with ncfast.apply_to(model):
        ours = model(**inputs)
    assert type(ours) is Named
    assert ours.logits is None
    torch.testing.assert_close(ours.loss, own.loss)


@pytest.mark.parametrize("inside", [True, False])
def test_the_head_s_own_autocast_decides(inside):
    """A head that a model keeps in float32 is not rounded to 16 bits for its loss."""

    def loss(model, x, labels):
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            logits = model.lm_head(x.float())
        loss = None if labels is None else _shifted(model, logits.float(), labels)
        return transformers.modeling_outputs.CausalLMOutput(loss=loss, logits=logits)

    model, inputs = a_class(loss), batch()
    with torch.autocast("cpu", torch.bfloat16):
        own = model(**inputs).loss
    ncfast.apply_to(model)
    with torch.autocast("cpu", torch.bfloat16):
        ours = model(**inputs).loss
    assert abs(ours.item() - own.item()) <= (5e-3 if inside else 1e-6) * own.item()


@pytest.mark.parametrize(
    "operation", [lambda z: z - 1, lambda z: -z, lambda z: z == 0, lambda z: z**2]
)
def test_an_operator_that_cannot_be_followed_is_named(operation):
    def loss(model, x, labels):
        logits = model.lm_head(x)
        value = None if labels is None else _shifted(model, operation(logits), labels)
        return transformers.modeling_outputs.CausalLMOutput(loss=value, logits=logits)

    with pytest.raises(LanguageError, match=r"operator other than"):
        ncfast.apply_to(a_class(loss))


def test_an_ellipsis_behind_a_choice_of_classes_is_no_choice_of_features():
    def loss(model, x, labels):
        logits = model.lm_head(x)
        value, chosen = None, logits[:, :, :60, ...]
        if labels is not None:
            target = labels.flatten().clamp(max=59)
            value = nn.functional.cross_entropy(chosen.reshape(-1, 60), target)
        return transformers.modeling_outputs.CausalLMOutput(loss=value, logits=logits)

    with pytest.raises(LanguageError, match="picks classes"):
        ncfast.apply_to(a_class(loss))


def test_each_model_keeps_its_own_signature():
    """From it the Trainer reads which columns a model takes."""
    bert = build("BertForMaskedLM")
    before = inspect.signature(bert.forward)
    ncfast.apply_to(bert)
    ncfast.apply_to(build("LlamaForCausalLM"))
    assert inspect.signature(bert.forward) == before
    assert inspect.signature(copy.deepcopy(bert).forward) == before
    assert "token_type_ids" in before.parameters


def test_parts_keep_their_modes():
    model = build("LlamaForCausalLM")
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    ncfast.apply_to(model)
    assert [module.training for module in model.modules()] == before


def test_a_rate_that_has_become_zero_is_looked_at_again():
    model = with_head(_Head("dropout")).train()
    own = copy.deepcopy(model)
    own.lm_head.rate = 0.0
    ncfast.apply_to(model)
    with pytest.raises(LanguageError, match="in train mode the head"):
        model(**batch())
    model.lm_head.rate = 0.0
    given = batch()
    assert float(model(**given).loss.detach()) == pytest.approx(
        float(own(**given).loss.detach()), rel=1e-5
    )


@pytest.mark.parametrize("scale", [60.0, 80.0, 100.0])
def test_a_class_that_rounds_its_logits_to_16_bits_is_the_same_model(scale):
    """As transformers' classes do, whose loss of such logits is of float32."""
    model = build("LlamaForCausalLM")
    with torch.no_grad():
        model.lm_head.weight.mul_(scale)  # logits of tens, as trained models have
    ncfast.apply_to(model.bfloat16())
