"""apply_to: a model's own loss and gradients without its logits, whatever its family."""

from __future__ import annotations

import copy
import inspect
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import ncfast
from ncfast.language import LanguageError
from ncfast.losses import DualityRegularizer
from tests.training.families import FAMILIES, VOCABULARY, batch, build

pytest.importorskip("transformers")


def step(model, inputs):
    """Return outputs and gradients of one forward and backward pass."""
    model.zero_grad()
    outputs = model(**inputs)
    outputs["loss"].backward()
    named = model.named_parameters()
    return outputs, {name: p.grad.clone() for name, p in named if p.grad is not None}


def assert_same_step(own, ours):
    """Compare loss and gradients to rounding: of float32, on the scale of the largest gradient."""
    torch.testing.assert_close(ours[0]["loss"], own[0]["loss"], rtol=2e-6, atol=0)
    assert ours[1].keys() == own[1].keys()
    scale = max(float(g.abs().max()) for g in own[1].values())
    for name, gradient in own[1].items():
        torch.testing.assert_close(ours[1][name], gradient, rtol=0, atol=3e-6 * scale, msg=name)


@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_gradients_are_the_class_s_own(name):
    model, inputs = build(name), batch()
    cases = [inputs]
    parameters = inspect.signature(model.forward).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        cases.append(inputs | {"num_items_in_batch": torch.tensor(50)})
    for case in cases:
        own = step(model, case)
        with ncfast.apply_to(model):
            ours = step(model, case)
        assert type(ours[0]) is type(own[0])
        assert ours[0].logits is None
        assert set(ours[0].keys()) == set(own[0].keys()) - {"logits"}
        assert_same_step(own, ours)
    logits = model(**inputs).logits
    assert logits.shape == (3, 10, VOCABULARY)  # restored


def ways_to_call(model) -> dict[str, dict]:
    """Return calls with labels: all that a forward pass of transformers takes beside them."""
    given = batch()
    ids, labels = given["input_ids"], given["labels"]
    half = torch.cat([torch.ones(3, 7), torch.zeros(3, 3)], 1).long()
    rows = model.get_input_embeddings()(ids).detach()
    changes = {
        "hidden states": {"output_hidden_states": True},
        "cache": {"use_cache": True},
        "no mask": {"attention_mask": None},
        "padding": {"attention_mask": half},
        "embeddings": {"input_ids": None, "inputs_embeds": rows},
        "some logits": {"logits_to_keep": 4, "labels": labels[:, -4:]},
        "shifted labels": {"shift_labels": labels.roll(-1, 1)},
        "tokens of the batch": {"num_items_in_batch": 40},
        "ignored label": {"ignore_index": 7},
        "smoothing": {"label_smoothing": 0.1},
        "weights": {"weight": torch.linspace(0.5, 2, VOCABULARY)},
        "a wrong label": {"labels": torch.full_like(labels, VOCABULARY)},
        "labels of another length": {"labels": labels.repeat(1, 2)},
    }
    calls = {name: given | change for name, change in changes.items()}
    return calls | {"two tokens": {name: value[:, :2] for name, value in given.items()}}


def outcome(model, call):
    try:
        return step(model, call)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize(
    "name", ["LlamaForCausalLM", "Gemma2ForCausalLM", "GPT2LMHeadModel", "BertForMaskedLM"]
)
def test_every_way_to_call_it_is_the_class_s_own_or_an_error_too(name):
    model, right = build(name), 0
    for way, call in ways_to_call(model).items():
        own = outcome(model, call)
        with ncfast.apply_to(model):
            ours = outcome(model, call)
        assert isinstance(own, type) == isinstance(ours, type), (way, own, ours)
        if not isinstance(own, type):
            assert_same_step(own, ours)
            right += 1
    assert right >= (5 if name == "BertForMaskedLM" else 9)


class _Largest(TorchDispatchMode):
    """Note the largest tensor that is born."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = out if isinstance(out, tuple | list) else [out]
        found = [t.numel() for t in tensors if isinstance(t, torch.Tensor)]
        self.numel = max([self.numel, *found])
        return out


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Gemma2ForCausalLM", "BertForMaskedLM"])
def test_no_logits_are_born(name):
    model, inputs = build(name, vocab_size=4096), batch(4, 24)
    tokens = inputs["labels"].numel()
    for apply, born in ((False, True), (True, False)):
        if apply:
            ncfast.apply_to(model)
        with _Largest() as largest:
            step(model, inputs)
        assert (largest.numel >= tokens * 4096) == born
        assert largest.numel >= 4096 * 16  # the gradient of the head


def test_without_labels_there_are_logits_and_in_eval_on_request():
    model, inputs = build("LlamaForCausalLM"), batch()
    without = {k: v for k, v in inputs.items() if k != "labels"}
    own = model(**inputs)
    handle = ncfast.apply_to(model)
    torch.testing.assert_close(model(**without).logits, own.logits, rtol=0, atol=0)
    assert model(**without).loss is None
    model.eval()
    assert model(**inputs).logits is None
    handle.restore()
    ncfast.apply_to(model, eval_logits=True)
    assert model(**inputs).logits is not None
    assert model.train()(**inputs).logits is None


def test_nothing_of_the_model_changes_but_its_forward(tmp_path):
    model, inputs = build("Qwen3ForCausalLM"), batch()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    signature = inspect.signature(model.forward)
    own, names = model(**inputs).loss, set(vars(model))
    ncfast.apply_to(model)
    assert inspect.signature(model.forward) == signature
    assert list(model.state_dict()) == list(before)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).train()
    assert loaded(**inputs).logits is not None
    torch.testing.assert_close(loaded(**inputs).loss, own)
    generated = model.generate(inputs["input_ids"][:1], max_new_tokens=2, do_sample=False)
    assert generated.shape == (1, 12)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        model.lm_head.weight.zero_()  # a copy looks at its own head
    torch.testing.assert_close(twin(**inputs).loss, own)
    assert ncfast.restore(model) is model
    assert set(vars(model)) == names
    assert "forward" not in vars(model.lm_head)
    assert model(**inputs).logits is not None


def test_pickling_a_changed_model_is_one_sentence(tmp_path):
    model = build("LlamaForCausalLM")
    ncfast.apply_to(model)
    for part in (model, model.lm_head):
        with pytest.raises(LanguageError, match=r"LlamaForCausalLM.*state_dict"):
            torch.save(part, tmp_path / "whole.pt")
    ncfast.restore(model)
    torch.save(model, tmp_path / "whole.pt")


def test_a_tuple_and_positional_labels():
    model, inputs = build("LlamaForCausalLM"), batch()
    own = model(**inputs, return_dict=False)
    order = list(inspect.signature(model.forward).parameters)
    positional = [inputs.get(name) for name in order[: order.index("labels") + 1]]
    with ncfast.apply_to(model):
        ours = model(*positional, return_dict=False)
    assert len(ours) == len(own) - 1
    torch.testing.assert_close(ours[0], own[0])


def test_a_head_that_is_replaced_is_found_again():
    model, inputs = build("LlamaForCausalLM"), batch()
    with ncfast.apply_to(model):
        model.resize_token_embeddings(VOCABULARY + 8)
        ours = step(model, inputs)
        assert ours[0].logits is None
        inputs["input_ids"][0, 0] = VOCABULARY + 7
        step(model, inputs)
    own = step(model, inputs)
    with ncfast.apply_to(model):
        assert_same_step(own, step(model, inputs))


def test_the_loss_is_smoothed_as_torch_smooths():
    model, inputs = build("BertForMaskedLM"), batch()
    logits, labels = model(**inputs).logits.flatten(0, 1), inputs["labels"].flatten()
    expected = nn.functional.cross_entropy(logits, labels, label_smoothing=0.2)
    with ncfast.apply_to(model, label_smoothing=0.2):
        torch.testing.assert_close(model(**inputs).loss, expected)
    capped = build("Gemma2ForCausalLM")
    ncfast.apply_to(capped, label_smoothing=0.2)
    with pytest.raises(ValueError, match="label_smoothing"):
        capped(**inputs)


@pytest.mark.parametrize("head", ["plain", "scaled", "adapted"])
def test_terms_are_added_in_training(head):
    family = "CohereForCausalLM" if head == "scaled" else "LlamaForCausalLM"
    model = build(family, tie_word_embeddings=False)
    inputs, weight, name = batch(), model.lm_head.weight, "lm_head.weight"
    if head == "adapted":
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False)
        model = peft.get_peft_model(model, config)
        layer, name = (
            model.get_output_embeddings(),
            "base_model.model.lm_head.lora_B.default.weight",
        )
        weight = layer.base_layer.weight + layer.get_delta_weight("default")
    term = DualityRegularizer(VOCABULARY, 16, range(5, 40), weight=0.7).eval()
    outputs = model(**inputs, output_hidden_states=True)
    x, y = outputs.hidden_states[-1][:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten()
    expected = outputs.loss + term(x, y, weight)
    expected.backward()
    gradient = dict(model.named_parameters())[name].grad.clone()
    with ncfast.apply_to(model, terms={"nc3": term}):
        ours, gradients = step(model, inputs)
        torch.testing.assert_close(ours.loss, expected)
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-7)
        with pytest.raises(LanguageError, match=r"num_items_in_batch .*NeuralCollapseTrainer"):
            model(**inputs, num_items_in_batch=30)
        model.eval()
        torch.testing.assert_close(model(**inputs).loss, outputs.loss)


def test_what_is_no_model_and_what_are_no_terms_by_name():
    from ncfast.training.trainer import NeuralCollapseTrainer

    with pytest.raises(TypeError, match="model is str; expected a model of transformers"):
        ncfast.apply_to("gpt2")
    model = build("LlamaForCausalLM")
    term = DualityRegularizer(61, 16)
    with pytest.raises(TypeError, match="terms is DualityRegularizer; expected terms by name"):
        ncfast.apply_to(model, terms=term)
    with pytest.raises(TypeError, match="NeuralCollapseTrainer: terms is list; expected terms"):
        NeuralCollapseTrainer(model, terms=[term])
    assert model(input_ids=torch.arange(6).view(2, 3)).logits is not None


def test_what_cannot_be_followed_is_rejected_and_leaves_no_trace():
    import transformers

    class Centred(transformers.LlamaForCausalLM):
        def forward(self, input_ids=None, attention_mask=None, labels=None, **kwargs):
            outputs = super().forward(input_ids, attention_mask, **kwargs)
            logits = self.lm_head(self.model(input_ids, attention_mask)[0])
            logits = logits - logits.mean(-1, keepdim=True)
            outputs.loss = self.loss_function(logits, labels, self.config.vocab_size)
            return outputs

    config = build("LlamaForCausalLM").config
    Centred.__name__ = "LlamaForCausalLM"
    for model, words in (
        (Centred(config), r"logits\.mean"),
        (transformers.BertModel(build("BertForMaskedLM").config), "no language-model head"),
        (nn.Linear(2, 2), "not a masked or causal"),
    ):
        with pytest.raises(LanguageError, match=words):
            ncfast.apply_to(model)
        assert "forward" not in vars(model)
    model = build("LlamaForCausalLM")
    model.loss_function = lambda logits, labels, vocab_size, **kwargs: labels.float().mean()
    with pytest.raises(LanguageError, match="without asking for the cross-entropy"):
        ncfast.apply_to(model)
    with pytest.raises(ValueError, match=r"label_smoothing is 1.5; expected"):
        ncfast.apply_to(build("LlamaForCausalLM"), label_smoothing=1.5)
    model = ncfast.apply_to(build("LlamaForCausalLM")).model
    with pytest.raises(ValueError, match="already"):
        ncfast.apply_to(model)


def test_importing_ncfast_imports_no_transformers():
    code = "import sys, ncfast; assert 'transformers' not in sys.modules; print(ncfast.apply_to)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
