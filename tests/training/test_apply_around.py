"""apply_to beside adapters, checkpointing, torch.compile, DDP and TRL."""

from __future__ import annotations

import pytest
import torch

import ncfast
from ncfast.language import LanguageError
from ncfast.losses import DualityRegularizer
from tests.forked import Forked
from tests.training.families import VOCABULARY, batch, build
from tests.training.test_apply import assert_same_step, step

ADAPTERS = {
    "body": dict(target_modules=["q_proj"]),
    "head": dict(target_modules=["lm_head"], use_rslora=True),
    "head, with dropout": dict(target_modules=["lm_head"], lora_dropout=0.5),
    "head, with a bias": dict(target_modules=["lm_head"], lora_bias=True),
    "head, DoRA": dict(target_modules=["lm_head"], use_dora=True),
    "saved head": dict(target_modules=["q_proj"], modules_to_save=["lm_head"]),
}


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("first", ["peft", "apply"])
def test_with_peft(name, first):
    peft = pytest.importorskip("peft")
    options = ADAPTERS[name]
    model, inputs = build("LlamaForCausalLM"), batch()
    if first == "apply":
        ncfast.apply_to(model)
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, **options)).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    if first == "peft":
        ncfast.apply_to(model)
    torch.manual_seed(3)
    ours = step(model, inputs)
    assert ours[0].logits is None
    ncfast.restore(model)
    torch.manual_seed(3)
    own = step(model, inputs)
    assert own[0].logits is not None
    assert_same_step(own, ours)


def test_dropout_inside_a_head_s_matrix_is_rejected():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["lm_head"], use_dora=True, lora_dropout=0.5)
    model = peft.get_peft_model(build("LlamaForCausalLM"), config).train()
    ncfast.apply_to(model)
    with pytest.raises(LanguageError, match=r"lora_dropout\.default, p=0\.5"):
        model(**batch())
    assert model.eval()(**batch()).logits is None


def test_with_gradient_checkpointing():
    model, inputs = build("LlamaForCausalLM"), batch()
    own = step(model, inputs)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with ncfast.apply_to(model):
        assert_same_step(own, step(model, inputs))


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Gemma2ForCausalLM", "BertForMaskedLM"])
def test_under_torch_compile(name):
    model, inputs = build(name), batch()
    own = step(model, inputs)
    ncfast.apply_to(model)
    # torch traces nn.CrossEntropyLoss, which BERT calls, by a rule of its own for tensors.
    compiled = torch.compile(model, backend="aot_eager", fullgraph=name != "BertForMaskedLM")
    outputs = compiled(**inputs)
    model.zero_grad()
    outputs.loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert outputs.logits is None
    assert_same_step(own, (outputs, gradients))
    torch._dynamo.reset()


_RANK = """
import sys, torch, ncfast
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from ncfast.testing import end_rank
from tests.training.families import batch, build
rank, store = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{store}/s", rank=rank, world_size=2)
model, inputs = build("LlamaForCausalLM"), batch(4)
wrapped = DistributedDataParallel(model)
ncfast.apply_to(wrapped)
mine = {name: value[rank::2] for name, value in inputs.items()}
outputs = wrapped(**mine)
assert outputs.logits is None
outputs.loss.backward()
if rank == 0:
    torch.save({n: p.grad for n, p in model.named_parameters()}, f"{store}/gradients.pt")
end_rank()
"""


@pytest.mark.slow
def test_two_ranks_of_ddp_equal_one(tmp_path):
    ranks = [Forked(["-c", _RANK, str(rank), tmp_path]) for rank in range(2)]
    assert [process.wait(300) for process in ranks] == [0, 0], [one.read(1) for one in ranks]
    own = step(build("LlamaForCausalLM"), batch(4))
    assert_same_step(own, (own[0], torch.load(tmp_path / "gradients.pt")))


@pytest.mark.parametrize("first", ["apply", "trl"])
def test_terms_under_a_loss_of_trl_are_rejected(first):
    utils = pytest.importorskip("trl.trainer.utils")
    model, inputs = build("LlamaForCausalLM"), batch()
    term = DualityRegularizer(list(range(5, 40)), VOCABULARY, 16)
    if first == "apply":
        ncfast.apply_to(model, terms={"nc3": term})
    utils.add_fused_lm_head(model)
    if first == "trl":
        ncfast.apply_to(model, terms={"nc3": term})
    with pytest.raises(LanguageError, match=r"TRL .* without the terms"):
        model(**inputs, fused_lm_head=True)
    assert model(**inputs).logits is None
    ncfast.restore(model)
    own = model(**inputs, fused_lm_head=True).loss
    ncfast.apply_to(model)
    torch.testing.assert_close(model(**inputs, fused_lm_head=True).loss, own)
    torch.testing.assert_close(model(**inputs).loss, own)
