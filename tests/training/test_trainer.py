"""NeuralCollapseTrainer beside the stock Trainer: every argument gives equal loss or an error."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from tests.training.families import VOCABULARY, build

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from ncfast.training.trainer import NeuralCollapseTrainer  # noqa: E402

# What touches loss, batches or precision, and what it is set to; the loss must be the stock one's.
EQUAL = {
    "per_device_train_batch_size": 3,
    "num_train_epochs": dict(num_train_epochs=1, max_steps=-1),
    "max_steps": 3,
    "learning_rate": 3e-2,
    "lr_scheduler_type": "cosine",
    "lr_scheduler_kwargs": dict(lr_scheduler_type="polynomial", lr_scheduler_kwargs={"power": 2}),
    "warmup_steps": 2,
    "optim": "sgd",
    "optim_args": dict(optim="adafactor", optim_args="clip_threshold=0.5"),
    "weight_decay": 0.5,
    "adam_beta1": 0.5,
    "adam_beta2": 0.5,
    "adam_epsilon": 1e-2,
    "gradient_accumulation_steps": 2,
    "average_tokens_across_devices": dict(
        average_tokens_across_devices=False, gradient_accumulation_steps=2
    ),
    "max_grad_norm": 0.01,
    "label_smoothing_factor": 0.2,
    "bf16": True,
    "bf16_full_eval": True,
    "fp16_full_eval": True,
    "activation_checkpointing": True,
    "activation_checkpointing_kwargs": dict(
        activation_checkpointing=True, activation_checkpointing_kwargs={"use_reentrant": True}
    ),
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": dict(
        gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False}
    ),
    "torch_compile": dict(torch_compile=True, torch_compile_backend="aot_eager"),
    "use_cache": True,
    "neftune_noise_alpha": 5.0,
    "auto_find_batch_size": True,
    "logging_nan_inf_filter": False,
    "include_num_input_tokens_seen": "all",
    "per_device_eval_batch_size": 5,
    "prediction_loss_only": True,
    "eval_on_start": dict(eval_on_start=True, eval_strategy="steps", eval_steps=1),
    "eval_accumulation_steps": 1,
    "batch_eval_metrics": False,
    "eval_do_concat_batches": False,
    "seed": 7,
    "data_seed": 7,
    "accelerator_config": {"even_batches": False},
    "dataloader_drop_last": dict(dataloader_drop_last=True, per_device_eval_batch_size=2),
    "remove_unused_columns": False,
    "label_names": ["labels"],
    "train_sampling_strategy": "group_by_length",
    "length_column_name": dict(
        train_sampling_strategy="group_by_length", length_column_name="length"
    ),
}
# What cannot be honoured, and says so: tested below, most of it needs what is not installed here.
REJECTED = {"use_liger_kernel", "liger_kernel_config", "fsdp", "fsdp_config", "deepspeed"}
REJECTED |= {"parallelism_config"}
# Needs a GPU (tf32, fp16) or an inductor (torch_compile_mode); the loss goes the way of bf16.
ELSEWHERE = {"tf32", "fp16", "torch_compile_mode"}
ELSEWHERE |= {"torch_compile_backend"}  # set with torch_compile, above
# Several processes: tests/training/test_launched.py.
SEVERAL = {
    "ddp_find_unused_parameters",
    "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers",
    "ddp_static_graph",
    "ddp_backend",
    "ddp_timeout",
    "local_rank",
    "eval_use_gather_object",
}
UNTOUCHED = {
    *("output_dir", "optim_target_modules", "torch_empty_cache_steps", "logging_strategy"),
    *("logging_steps", "logging_first_step", "log_on_each_node", "log_level", "log_level_replica"),
    *("disable_tqdm", "report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id"),
    *("trackio_static_space_id", "eval_strategy", "eval_steps", "eval_delay"),
    *("include_for_metrics", "save_only_model", "save_strategy", "save_steps", "save_on_each_node"),
    *("save_total_limit", "enable_jit_checkpoint", "push_to_hub", "hub_token", "hub_private_repo"),
    *("hub_model_id", "hub_strategy", "hub_always_push", "hub_revision", "load_best_model_at_end"),
    *("metric_for_best_model", "greater_is_better", "ignore_data_skip", "full_determinism"),
    *("restore_callback_states_from_checkpoint", "use_cpu", "dataloader_num_workers"),
    *("dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
    *("dataloader_multiprocessing_context", "dataloader_in_order", "debug", "skip_memory_metrics"),
    *("do_train", "do_eval", "do_predict", "resume_from_checkpoint"),
}


def rows(count: int = 12) -> list[dict]:
    """Return examples of unequal length, some labels of which are ignored."""
    generator = torch.Generator().manual_seed(2)
    found = []
    for number in range(count):
        ids = torch.randint(5, VOCABULARY, (4 + number % 7,), generator=generator)
        labels = ids.clone()
        labels[:1] = -100
        found.append({"input_ids": ids, "labels": labels, "length": len(ids)})
    return found


def collate(examples: list[dict]) -> dict[str, torch.Tensor]:
    """Pad a batch."""
    pad = torch.nn.utils.rnn.pad_sequence
    ids, labels = ([e[name] for e in examples] for name in ("input_ids", "labels"))
    batch = {"input_ids": pad(ids, True, 0), "labels": pad(labels, True, -100)}
    return batch | {"attention_mask": (batch["input_ids"] != 0).long()}


def curve(cls, folder, family="LlamaForCausalLM", model=None, **settings):
    """Train a few steps; return the losses, the gradient norms and the loss of evaluation."""
    base = dict(per_device_train_batch_size=4, max_steps=2, learning_rate=1e-2, logging_steps=1)
    base |= dict(report_to="none", disable_tqdm=True, use_cpu=True, save_strategy="no")
    args = transformers.TrainingArguments(str(folder), **base | settings)
    data = rows()
    trainer = cls(
        build(family) if model is None else model,
        args,
        train_dataset=data,
        eval_dataset=data[:5],
        data_collator=collate,
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    norms = [row["grad_norm"] for row in trainer.state.log_history if "loss" in row]
    return losses, norms, trainer.evaluate()["eval_loss"]


def assert_equal_curves(folder, low=False, **settings):
    """Compare the stock Trainer's curve with ours."""
    stock, ours = (
        curve(cls, folder, **settings) for cls in (transformers.Trainer, NeuralCollapseTrainer)
    )
    assert len(stock[0]) >= 2
    # Logits in 16 bits are rounded once more there than here.
    expected = pytest.approx if not low else lambda value, **_: pytest.approx(value, rel=1e-2)
    assert ours[0] == expected(stock[0], rel=2e-5)
    assert ours[1] == pytest.approx(stock[1], rel=5e-2 if low else 2e-4)
    assert ours[2] == expected(stock[2], rel=2e-5)
    return stock


def test_every_argument_has_its_place():
    tables = [EQUAL, REJECTED, ELSEWHERE, SEVERAL, UNTOUCHED]
    names = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    places = [name for table in tables for name in table]
    assert len(places) == len(set(places))
    new = sorted(names - set(places))
    assert not new, f"TrainingArguments has {new}; put each into a table of this file"


def _marked(name):
    slow = [pytest.mark.slow] if name == "torch_compile" else []
    return pytest.param(name, marks=slow)


@pytest.mark.parametrize("name", [_marked(name) for name in EQUAL])
def test_the_loss_is_the_stock_trainer_s(name, tmp_path):
    if name not in {field.name for field in dataclasses.fields(transformers.TrainingArguments)}:
        pytest.skip(f"this transformers has no {name}")
    settings = EQUAL[name] if isinstance(EQUAL[name], dict) else {name: EQUAL[name]}
    if name == "accelerator_config":
        settings = {name: EQUAL[name]}
    assert_equal_curves(tmp_path, low="16" in name, **settings)
    torch._dynamo.reset()


@pytest.mark.parametrize("family", ["BertForMaskedLM", "MixtralForCausalLM", "CohereForCausalLM"])
@pytest.mark.parametrize("name", ["plain", "accumulated", "smoothed", "both"])
def test_other_families_too(family, name, tmp_path):
    settings = {}
    if name in ("accumulated", "both"):
        settings["gradient_accumulation_steps"] = 2
    if name in ("smoothed", "both"):
        settings["label_smoothing_factor"] = 0.2
        if family == "MixtralForCausalLM":
            pytest.skip("the stock Trainer drops a router's loss where it smooths; ours adds it")
    assert_equal_curves(tmp_path, family=family, **settings)


def test_a_router_s_loss_is_added_where_labels_are_smoothed(tmp_path):
    found = []
    for coefficient in (0.0, 0.5):
        model = build("MixtralForCausalLM", router_aux_loss_coef=coefficient)
        losses, *_ = curve(NeuralCollapseTrainer, tmp_path, model=model, label_smoothing_factor=0.2)
        found.append(losses[0])
    assert found[1] > found[0] + 0.4


INPUTS = {
    "position_ids": ("LlamaForCausalLM", torch.cat([torch.arange(6), torch.arange(4)])),
    "token_type_ids": ("BertForMaskedLM", torch.arange(10) // 5),
    "inputs_embeds": ("LlamaForCausalLM", None),
    "shift_labels": ("LlamaForCausalLM", torch.arange(10) + 5),
}


@pytest.mark.parametrize("name", INPUTS)
def test_what_the_model_takes_reaches_it(name, tmp_path):
    from tests.training.families import batch

    family, value = INPUTS[name]
    model, inputs = build(family).eval(), batch()
    plain = dict(inputs)
    if value is None:
        inputs[name] = torch.randn(3, 10, 16, generator=torch.Generator().manual_seed(4))
        del inputs["input_ids"]
    else:
        inputs[name] = value.expand(3, -1).clone()
    args = transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    stock, ours = (
        cls(model, args).compute_loss(model, dict(inputs)).item()
        for cls in (transformers.Trainer, NeuralCollapseTrainer)
    )
    assert ours == pytest.approx(stock, rel=1e-6)
    without = NeuralCollapseTrainer(model, args).compute_loss(model, plain).item()
    assert abs(ours - without) > 1e-4


def test_evaluation_with_predictions_has_logits(tmp_path):
    args = transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    data = rows(7)[-1:] * 4
    trainer = NeuralCollapseTrainer(build("LlamaForCausalLM"), args, data_collator=collate)
    found = trainer.predict(data)
    assert found.predictions.shape == (4, 10, VOCABULARY)
    assert trainer.evaluate(data)["eval_loss"] == pytest.approx(found.metrics["test_loss"])


def test_what_cannot_be_honoured_raises_at_construction(tmp_path, monkeypatch):
    args = transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    model = build("LlamaForCausalLM")
    with pytest.raises(ValueError, match="compute_loss_func is set"):
        NeuralCollapseTrainer(model, args, compute_loss_func=lambda *_: None)
    assert "forward" not in vars(model)
    smoothing = dataclasses.replace(args, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match=r"label_smoothing_factor is 0\.1 .* caps its logits"):
        NeuralCollapseTrainer(build("Gemma2ForCausalLM"), smoothing)
    trainer = NeuralCollapseTrainer(model, args)
    with monkeypatch.context() as patch:
        patch.setattr(trainer.args, "use_liger_kernel", True)
        with pytest.raises(ValueError, match="use_liger_kernel is set"):
            trainer._reject_unsupported()
    for option, plugin in (
        ("fsdp", "fsdp_plugin"),
        ("deepspeed", "deepspeed_plugin"),
        ("parallelism_config", "parallelism_config"),
    ):
        with monkeypatch.context() as patch:
            state = SimpleNamespace(**{plugin: object()})
            patch.setattr(trainer, "accelerator", SimpleNamespace(state=state))
            with pytest.raises(ValueError, match=f"{option} is set"):
                trainer._reject_unsupported()
    trainer._reject_unsupported()
