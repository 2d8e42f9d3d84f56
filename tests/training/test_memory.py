"""The memory plan: counted from fake tensors, held against what a process really took."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from ncfast.plan import PlanSettings, plan_model, read_config
from ncfast.training import account, memory, memory_limit, set_recompute
from ncfast.training.live_bytes import LiveBytes
from ncfast.training.recompute import recomputable_layers

ROOT = Path(__file__).resolve().parents[2]

# A step large enough to stand out from the process, in a fresh process: 6 layers, width 256.
MEASURED = """
import json, sys, torch, transformers
from ncfast.language import LanguageModel
from ncfast.losses import DualityRegularizer
from ncfast.training import Objective, make_optimizer, memory, process_memory, set_recompute
from ncfast.training.unloaded import example_batch, unchecked_model
kind, parts, layers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
small = dict(vocab_size=8000, hidden_size=256, num_hidden_layers=6, num_attention_heads=4)
process_memory.give_memory_back()
if kind == "masked":
    config = transformers.BertConfig(**small, intermediate_size=1024)
    model = transformers.BertForMaskedLM(config)
else:
    config = transformers.LlamaConfig(**small, intermediate_size=768, tie_word_embeddings=True)
    model = transformers.LlamaForCausalLM(config)
wrapped = unchecked_model(model, kind)
batch = example_batch(16, 128, 8000, "mlm" if kind == "masked" else "clm")
model.train()
term = DualityRegularizer(8000, 256, range(300)).train()
objective = Objective(wrapped, {"nc3": term}, parts)
optimizer = make_optimizer(model)
set_recompute(model, layers)
before = process_memory.reset_peak()
runtime = process_memory.warm_up(objective, batch)
plan = memory.plan(objective, optimizer, batch, runtime)
assert all(parameter.grad is None for parameter in model.parameters()) and term.calls == 0
process_memory.give_memory_back(plan.peak)
start = process_memory.reset_peak() - runtime - plan.weights
for step in range(2):
    optimizer.zero_grad(set_to_none=True)
    objective.backward(batch, step)
    optimizer.step()
print(json.dumps([plan.peak, process_memory.peak_memory("cpu", start)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("kind", "parts", "layers"), [("masked", 1, 0), ("causal", 2, 3), ("masked", 4, 0)]
)
def test_the_plan_is_within_a_tenth_of_what_is_measured(kind, parts, layers):
    words = [sys.executable, "-c", MEASURED, kind, str(parts), str(layers)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    predicted, measured = json.loads(done.stdout.strip().splitlines()[-1])
    assert predicted == pytest.approx(measured, rel=0.1)


def test_live_bytes_follow_storages():
    with LiveBytes() as live:
        x = torch.zeros(1000)
        view = x[:10]
        y = x + 1
        del y
        z = x + 2
    assert (live.now, live.peak) == (8000, 8000)
    del x, view
    assert live.now == 4000
    assert z.numel() == 1000


def test_a_question_of_values_takes_what_it_could_take_at_most():
    with FakeTensorMode():
        present = torch.zeros(5, 2, dtype=torch.bool)
        with LiveBytes() as live:
            assert present.nonzero().shape == (10, 2)
    assert live.peak == 10 * 2 * 8


def test_recomputing_and_micro_batches_take_less(setup_run):
    run = setup_run("causal")
    batch = run.batches(0)
    before = {n: p.clone() for n, p in run.model.model.named_parameters()}
    state = torch.get_rng_state()
    whole = memory.plan(run.objective, run.optimizer, batch)
    assert set_recompute(run.model.model, 9) == 2 == whole.layers
    recomputed = memory.plan(run.objective, run.optimizer, batch)
    run.objective.micro_batches = 4
    parts = memory.plan(run.objective, run.optimizer, batch)
    assert whole.activations > 1.2 * recomputed.activations > 1.2 * parts.activations
    assert whole.optimizer == 2 * whole.gradients
    # Planning leaves no trace: weights, gradients and random state are as they were.
    assert torch.equal(torch.get_rng_state(), state)
    for name, parameter in run.model.model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
    assert int(run.objective.terms["nc3"].calls) == 0


def test_recomputing_changes_no_gradient(setup_run):
    kept, again = setup_run("causal"), setup_run("causal")
    set_recompute(again.model.model, 1)
    switches = [layer.gradient_checkpointing for layer in recomputable_layers(again.model.model)]
    assert switches == [True, False]
    for run in (kept, again):
        run.objective.backward(run.batches(0), 0)
    for name, gradient in kept.gradients().items():
        assert torch.equal(gradient, again.gradients()[name]), name


def test_a_limit_chooses_the_cheapest_that_fits(setup_run):
    run = setup_run("causal")
    batch = run.batches(0)
    pieces = (run.objective, run.optimizer, batch)
    free = memory_limit.fit(*pieces, 1 << 40)
    # With room for everything, nothing is computed twice and all logits are kept.
    assert (free.recompute, free.micro_batches) == (0, 1)
    assert free.head_budget == 4 * batch.predicted * run.model.vocab_size
    peaks = {}
    for limit in (free.peak - 1, int(0.9 * free.peak), int(0.8 * free.peak)):
        found = memory_limit.fit(*pieces, limit)
        assert found.peak <= limit
        # What the plan says is what the objective is set to.
        assert found == memory.plan(*pieces)
        choice = (found.micro_batches, found.recompute)
        peaks[limit] = memory_limit.step_cost(run.objective, batch, *choice, 0.0)
    assert sorted(peaks.values()) == list(peaks.values())
    with pytest.raises(
        memory_limit.DoesNotFit, match=r"too small: with one block at a time .* LoRA"
    ):
        memory_limit.fit(*pieces, 1 << 20)


@pytest.mark.parametrize(("grad", "cheaper"), [("head", "parts"), ("both", "recompute")])
def test_a_term_on_the_features_makes_micro_batches_dear(setup_run, grad, cheaper):
    run = setup_run("causal", grad=grad)
    batch = run.batches(0)
    parts = memory_limit.step_cost(run.objective, batch, 2, 0, 0.0)
    recompute = memory_limit.step_cost(run.objective, batch, 1, 1, 0.0)
    assert (parts < recompute) == (cheaper == "parts")


@pytest.mark.parametrize(("name", "copies"), [("AdamW", 2), ("SGD", 0), ("RMSprop", 1)])
def test_state_of_optimisers(name, copies):
    layer = nn.Linear(50, 20)
    optimizer = getattr(torch.optim, name)(layer.parameters(), lr=0.1)
    assert account.optimizer_bytes(optimizer) == copies * 4 * 1020


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 << 30), ("500MB", 500_000_000), ("1.5 gb", 1_500_000_000), ("7", 7)],
)
def test_sizes(text, size):
    assert memory.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GB", "4GX", "0"])
def test_no_sizes(text):
    with pytest.raises(ValueError, match="not a size in bytes; expected for example 4GiB"):
        memory.parse_size(text)


def test_llama_3_8b_on_24_and_80_gigabytes():
    plans = {
        lora: plan_model(
            read_config("llama3-8b"), PlanSettings(gpus=0, lora=lora, recompute=32)
        ).memory
        for lora in (0, 16)
    }
    # 8.03 billion parameters in bfloat16.
    assert plans[0].weights == pytest.approx(2 * 8.03e9, rel=1e-3)
    assert plans[0].gradients == pytest.approx(plans[0].weights, rel=1e-6)  # all but a buffer
    assert plans[0].optimizer == 2 * plans[0].gradients
    assert plans[16].gradients < 0.02 * plans[0].gradients
    # LoRA fits a 24 GB card; all weights with AdamW in bfloat16 fit one of 80 GB, not of 24.
    assert plans[16].peak < 24e9
    assert 24e9 < plans[0].peak < 80e9
    # The logits alone would take 2048 x 128256 x 4 bytes, three times over.
    assert plans[16].activations < 3 * 2048 * 128_256 * 4
