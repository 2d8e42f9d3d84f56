"""Plans without weights: equal to the loop's own, to whole runs, and to real ranks of FSDP2."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from torch import distributed

from ncfast.cli import main
from ncfast.errors import DataError
from ncfast.language import LanguageError
from ncfast.losses import DualityRegularizer
from ncfast.plan import EVERY, PlanSettings, job, plan_model, read_config, remedies
from ncfast.plan.devices import PANEL_CLASSES, PANEL_TOKENS, Devices
from ncfast.plan.splitting import on_own_rows
from ncfast.plan.traffic import Message
from ncfast.testing import end_rank
from ncfast.training import Objective, make_optimizer, memory, set_recompute
from ncfast.training.account import _step
from ncfast.training.live_bytes import LiveBytes
from ncfast.training.unloaded import example_batch, unchecked_model
from tests.forked import run_ranks

SMALL = dict(block_size=64, term_classes=20)


def small(layers=12, **more):
    """A Llama of width 64."""
    from transformers import LlamaConfig

    sizes = dict(vocab_size=512, hidden_size=64, intermediate_size=96, num_attention_heads=4)
    sizes |= dict(num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False)
    return LlamaConfig(**{**sizes, "num_hidden_layers": layers, **more})


@pytest.mark.parametrize(
    "chosen",
    [
        dict(batch_size=4, accumulate=2, recompute=EVERY),
        dict(lora=4, gpus=0, batch_size=2),
        dict(gpus=4, parallel="fsdp", batch_size=4, recompute=EVERY, dtype="float32"),
        pytest.param(
            dict(gpus=4, parallel="fsdp+tp", tensor=2, batch_size=4), marks=pytest.mark.slow
        ),
    ],
    ids=["one", "lora", "fsdp", "fsdp+tp"],
)
def test_two_shallow_steps_say_what_a_deep_one_takes(chosen, monkeypatch):
    config, settings = small(), PlanSettings(**SMALL, **chosen)
    quick = plan_model(config, settings)
    monkeypatch.setattr(job, "alike", lambda config, shapes: None)
    whole = plan_model(config, settings)
    assert asdict(quick.memory) == asdict(whole.memory)
    assert quick.traffic == whole.traffic
    assert quick.parameters == whole.parameters


def _objects(config, settings, device="cpu"):  # the loop's own, of real tensors
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(getattr(torch, settings.dtype)).train()
    wrapped = unchecked_model(model)
    place = (wrapped.vocab_size, wrapped.hidden_size, range(settings.term_classes))
    term = DualityRegularizer(*place, warn_after=None).train()
    set_recompute(model, min(settings.recompute, config.num_hidden_layers))
    return Objective(wrapped, {"nc3": term}, settings.accumulate)


def test_the_plan_of_a_cpu_is_the_loops_own():
    config = small(layers=6)
    settings = PlanSettings(
        gpus=0, batch_size=4, accumulate=2, recompute=2, dtype="float32", **SMALL
    )
    objective = _objects(config, settings)
    batch = example_batch(4, 64, 512)
    loop = memory.plan(objective, make_optimizer(objective.model.model), batch)
    assert plan_model(config, settings).memory == loop


def test_a_gpus_plan_counts_its_kernels_and_optimisers():
    config, settings = small(layers=4), PlanSettings(**SMALL)
    here, gpu = (plan_model(config, replace(settings, gpus=gpus)).memory for gpus in (0, 1))
    assert (here.weights, here.optimizer) == (gpu.weights, gpu.optimizer)
    # torch's foreach AdamW takes the roots of all second moments at once.
    matrices = gpu.gradients - 2 * 64 * (2 * 4 + 1)
    assert gpu.peak >= gpu.weights + gpu.gradients + gpu.optimizer + gpu.statistics + matrices
    gradients = pytest.importorskip("ncfast.kernels.cross_entropy_gradients", exc_type=ImportError)
    assert (gradients.PANEL_TOKENS, gradients.PANEL_CLASSES) == (PANEL_TOKENS, PANEL_CLASSES)


def _rank(rank, folder):
    from torch.distributed.device_mesh import init_device_mesh

    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    settings = PlanSettings(gpus=2, parallel="fsdp", batch_size=2, dtype="float32", **SMALL)
    objective = _objects(small(layers=3), settings)
    devices = Devices(
        init_device_mesh("cpu", (2, 1), mesh_dim_names=("data", "tensor")), "AdamW", False, False
    )
    devices.arrange(objective, None)
    model = objective.model.model
    parts = objective.prepare(example_batch(1, 64, 512))
    _step(objective, parts, devices)
    for parameter in model.parameters():
        parameter.grad = None
    live = LiveBytes(observe=devices.observe)
    with live:
        for module in (model, *objective.terms.values()):
            for tensor in (*module.parameters(), *module.buffers()):
                live.add(tensor)
        _step(objective, parts, devices)
    sent = {f"{m.collective} {m.devices}": size for m, size in devices.traffic.sizes.items()}
    if rank == 0:
        torch.save((live.peak, sent), f"{folder}/found.pt")
    end_rank()


@pytest.mark.skipif(not distributed.is_gloo_available(), reason="needs gloo")
def test_two_real_ranks_hold_and_send_what_is_planned(tmp_path):
    run_ranks(_rank, (str(tmp_path),))
    peak, sent = torch.load(tmp_path / "found.pt")
    settings = PlanSettings(gpus=2, parallel="fsdp", batch_size=2, dtype="float32", **SMALL)
    plan = plan_model(small(layers=3), settings)
    found = {f"{m.collective} {m.devices}": size for m, (size, _) in plan.traffic.items()}
    assert found == sent
    memory = plan.memory
    held = memory.weights + memory.gradients + memory.statistics // 2
    step = held + memory.activations + memory.gathered + memory.head + memory.terms
    assert step == pytest.approx(peak, rel=0.1)


def test_what_is_sent_is_what_the_engines_are_known_to_send():
    """FSDP2 gathers every weight twice, but the root's once; TP adds up [tokens, width]."""
    chosen = dict(gpus=8, parallel="fsdp+tp", tensor=2, batch_size=4, recompute=EVERY)
    plan = plan_model(small(), PlanSettings(**SMALL, **chosen))
    layer = 2 * (64 * 64 * 2 + 2 * 64 * 32 + 3 * 64 * 96) // 2 + 2 * 2 * 64  # bfloat16, half of it
    root = 2 * (2 * 512 * 64) // 2 + 2 * 64
    gathered = plan.traffic[Message("all_gather", "data", 4)]
    reduced = plan.traffic[Message("reduce_scatter", "data", 4)]
    assert gathered == (2 * 12 * layer + root, 2 * 12 + 1)
    assert reduced == (12 * layer + root, 12 + 1)
    summed, calls = plan.traffic[Message("all_reduce", "tensor", 2)]
    assert calls >= 12 * 4
    assert summed >= calls * 0.9 * 2 * 64 * 64
    assert plan.sent("tensor") == summed  # a ring of two sends the tensor once
    one = plan_model(small(), PlanSettings(**SMALL))
    assert plan.memory.weights == pytest.approx(one.memory.weights / 8, rel=0.02)
    assert plan.memory.optimizer == pytest.approx(one.memory.optimizer / 8, rel=0.02)


@pytest.mark.slow
def test_remedies_end_where_it_fits():
    plan = plan_model(small(), PlanSettings(batch_size=2, **SMALL))
    found = remedies(small(), plan, int(0.9 * plan.needed), "small")
    assert found[0][0] == "every layer recomputed (--recompute all)"
    assert found[-1][1].needed <= 0.9 * plan.needed
    assert all(one.needed > 0.9 * plan.needed for _, one in found[:-1])
    plan = plan_model(small(), PlanSettings(**SMALL))
    found = remedies(small(layers=2), plan, 1 << 10, "small")
    assert len(found) == 6  # nothing is enough
    assert plan_model(small(), found[-1][1].settings).needed > 1 << 10  # nor deep ones


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("no/such/model", "or one of llama3-8b"),
        ("./missing", "there is no model folder ./missing"),
        ("t5", "t5 (t5) is neither a causal nor a masked language model; expected"),
        ("llama3-8b --hidden 100", "whose heads are 128 wide; expected a multiple"),
        ("llama3-8b --hidden 640", "makes 5 heads in groups of 4; expected a multiple of 512"),
        ("gpt2 --gpus 2 --parallel tp", "tensor parallelism with GPT2LMHeadModel, for which"),
        ("llama3-8b --gpus 3 --parallel tp", "num_attention_heads=32; expected a number"),
        ("llama3-8b --gpus 2 --parallel tp --lora 4", "LoRA with tensor parallelism"),
        ("llama3-8b --gpus 2 --batch-size 3", "batch_size=3 blocks over 2 groups"),
        ("llama3-8b --parallel fsdp", "parallel is 'fsdp' with 1 GPUs; expected 'none' for one"),
        ("llama3-8b --gpus 0 --parallel tp", "parallel is 'tp' with 0 GPUs; expected 'none'"),
        ("bert-base --term-classes 30523", "--term-classes 30523 with 30522 classes; expected"),
        ("llama3-8b --gpus 6 --parallel fsdp+tp --tp 4", "expected a divisor"),
        ("llama3-8b --accumulate 2", "expected at most one micro-batch per block"),
        ("llama3-8b --recompute some", "--recompute some; expected a number of layers, or all"),
        ("llama3-8b --layers 2 --recompute 5", "recompute=5; llama3-8b has 2 layers that can be"),
        ("llama3-8b --memory much", "'much' is not a size in bytes; expected for example 4GiB"),
        ("llama3-8b --block-size 9000", "block_size=9000; llama3-8b takes at most 8192 positions"),
        ("llama3-8b --layers 4 --optimizer Best", "there is no optimizer 'Best' to train with"),
    ],
)
def test_errors_are_one_sentence(words, message, capsys):
    assert main(["plan", *words.split()]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said


@pytest.mark.parametrize(
    "wrong",
    [
        {"gpus": -2},
        {"tensor": 0},
        {"accumulate": 0},
        {"recompute": -1},
        {"batch_size": 2.5},
        {"lora": True},
        {"dtype": "int64"},
        {"precision": "fp8"},
    ],
)
def test_settings_that_mean_nothing_are_rejected(wrong):
    with pytest.raises(DataError, match="expected"):
        PlanSettings(**wrong)


def test_every_micro_batch_sends_anew():
    chosen = dict(gpus=2, parallel="fsdp", batch_size=8, term_classes=0)
    calls = {}
    for count in (2, 4):
        plan = plan_model(small(layers=2), PlanSettings(**SMALL | chosen, accumulate=count))
        calls[count] = {m.collective: n for m, (_, n) in plan.traffic.items()}
    assert calls[4]["all_gather"] == 2 * calls[2]["all_gather"]
    assert calls[4]["reduce_scatter"] == 2 * calls[2]["reduce_scatter"]


def test_settings_that_contradict_one_another():
    with pytest.raises(DataError, match="'tp' with 2 of 4 GPUs sharing every layer"):
        PlanSettings(gpus=4, parallel="tp", tensor=2)
    with pytest.raises(DataError, match="expected more than one for tp, and one otherwise"):
        PlanSettings(gpus=4, parallel="fsdp", tensor=2, batch_size=4)
    with pytest.raises(DataError, match="parallel is 'ddp'; expected one of none, fsdp"):
        PlanSettings(gpus=4, parallel="ddp")


def test_sizes_of_ones_own():
    found = read_config("gpt2", layers=3, hidden=192, vocab=100)
    assert (found.n_layer, found.n_embd, found.n_head, found.vocab_size) == (3, 192, 3, 100)
    found = read_config("gemma2-9b", layers=5, hidden=1024)
    assert found.layer_types == read_config("gemma2-9b").layer_types[:5]
    assert (found.num_attention_heads, found.num_key_value_heads) == (4, 2)
    assert found.intermediate_size == 4096
    found = read_config("gemma2-9b", hidden=3584)  # its own width: its own heads, 16 of 256
    assert (found.num_attention_heads, found.num_key_value_heads) == (16, 8)
    with pytest.raises(LanguageError, match="--layers with clip, whose configuration"):
        read_config("clip", layers=2)


@pytest.mark.slow
def test_the_command_prints_a_plan_of_a_folder(tiny_model, capsys):
    words = ["plan", str(tiny_model("masked")), "--block-size", "32", "--batch-size", "2"]
    assert main([*words, "--memory", "1GiB", "--dtype", "float32"]) == 0
    text = capsys.readouterr().out
    assert "fits 1.00 GiB" in text
    assert text.rstrip().endswith("It fits.")
    assert main([*words, "--memory", "64KiB", "--choices", "--term-classes", "5"]) == 1
    text = capsys.readouterr().out
    assert "It does not fit. Each on top of the ones before:" in text
    assert "all weights, every layer recomputed" in text
    assert "LoRA 16" in text


def test_the_command_prints_traffic_and_json(capsys):
    words = "plan llama --layers 2 --hidden 256 --vocab 1000 --gpus 4 --parallel fsdp+tp --tp 2"
    words = [*words.split(), "--block-size", "32", "--precision", "bf16", "--accumulate", "1"]
    words += ["--bandwidth", "1GB", "--tp-bandwidth", "2GB", "--dtype", "float32"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "all_gather over 2 (data)" in text
    assert "sent, tensor, at 2 GB/s" in text
    assert main([*words, "--json", "--memory", "1GiB", "--recompute", "all"]) == 0
    found = json.loads(capsys.readouterr().out)
    plan = found["plans"][0]
    assert found["fits"]
    assert plan["settings"]["tensor"] == 2
    sent = sum(m["sent"] for m in plan["traffic"] if m["over"] == "data")
    assert found["traffic_seconds"]["data"] == pytest.approx(sent / 1e9)
    assert plan["memory"]["recompute"] == 2


def test_a_term_on_a_ranks_own_rows_makes_no_matrix_of_the_whole_head():
    term = DualityRegularizer(8000, 8, range(5), warn_after=None).train()
    rows = torch.randn(1000, 8, requires_grad=True)
    with LiveBytes() as live:
        on_own_rows(term, torch.randn(20, 8), torch.arange(20) % 5, rows).backward()
    assert rows.grad.shape == rows.shape
    # The whole head is 8 of these. Counted real tensors have two: their index_add is not in place.
    assert live.peak < 3 * rows.nbytes
    assert term.class_means.num_classes == 8000


def test_the_gradient_of_chosen_rows_is_one_matrix_as_it_is_of_real_tensors():
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        head, ids = torch.empty(1000, 8, requires_grad=True), torch.arange(3)
        with LiveBytes() as live:
            head.index_select(0, ids).sum().backward()
    assert live.peak < 1.1 * head.nbytes
