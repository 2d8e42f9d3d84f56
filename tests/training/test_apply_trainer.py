"""The stock Trainer on a model under apply_to: its losses, predictions and skipped steps."""

from __future__ import annotations

import pytest
import torch

import ncfast
from ncfast.losses import DualityRegularizer
from tests.training.families import VOCABULARY, build
from tests.training.test_trainer import collate, curve, rows

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from ncfast.training.trainer import NeuralCollapseTrainer  # noqa: E402

SETTINGS = {
    "plain": {},
    "label_smoothing_factor": {"label_smoothing_factor": 0.2},
    "accumulated": {"gradient_accumulation_steps": 2},
    "accumulated, smoothed": {"gradient_accumulation_steps": 2, "label_smoothing_factor": 0.2},
    "accumulated by steps": {
        "gradient_accumulation_steps": 2,
        "average_tokens_across_devices": False,
    },
}


@pytest.mark.parametrize("family", ["LlamaForCausalLM", "BertForMaskedLM", "CohereForCausalLM"])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_loss_is_that_of_the_model_without_it(family, name, tmp_path):
    found = []
    for apply in (False, True):
        model = build(family)
        if apply:
            ncfast.apply_to(model)
        found.append(curve(transformers.Trainer, tmp_path, model=model, **SETTINGS[name]))
    own, ours = found
    assert len(own[0]) == 2
    assert own[0][0] != own[0][1]
    assert ours[0] == pytest.approx(own[0], rel=2e-5)
    assert ours[1] == pytest.approx(own[1], rel=2e-4)
    assert ours[2] == pytest.approx(own[2], rel=2e-5)


def packed(examples):
    """Pack all examples into one row without padding: positions say where each begins."""
    ids, labels = (torch.cat([e[name] for e in examples])[None] for name in ("input_ids", "labels"))
    positions = torch.cat([torch.arange(len(e["input_ids"])) for e in examples])[None]
    return {"input_ids": ids, "labels": labels, "position_ids": positions}


@pytest.mark.parametrize("steps", [1, 2])
def test_packed_sequences(steps, tmp_path):
    data, found = rows(), []
    for apply in (False, True):
        model = build("LlamaForCausalLM", max_position_embeddings=64)
        if apply:
            ncfast.apply_to(model)
        args = transformers.TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=3,
            gradient_accumulation_steps=steps,
            max_steps=2,
            learning_rate=1e-2,
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            save_strategy="no",
        )
        trainer = transformers.Trainer(model, args, train_dataset=data, data_collator=packed)
        trainer.train()
        found.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
    assert found[1] == pytest.approx(found[0], rel=2e-5)
    # The first label of each text is ignored, so the texts packed are the texts apart.
    model.eval()
    whole, apart = model(**packed(data[:4])).loss, model(**collate(data[:4])).loss
    torch.testing.assert_close(whole, apart, rtol=1e-5, atol=0)


def accuracy(predicted):
    assert predicted.predictions.shape == (4, 10, VOCABULARY)
    return {"right": float((predicted.predictions.argmax(-1) == predicted.label_ids).mean())}


@pytest.mark.parametrize("eval_logits", [False, True])
def test_predictions_are_the_stock_trainer_s(eval_logits, tmp_path):
    data, found = rows(7)[-1:] * 4, []
    for apply in (False, True):
        model = build("LlamaForCausalLM")
        if apply:
            ncfast.apply_to(model, eval_logits=eval_logits)
        args = transformers.TrainingArguments(
            str(tmp_path), per_device_eval_batch_size=2, use_cpu=True, report_to="none"
        )
        trainer = transformers.Trainer(model, args, data_collator=collate)
        predicted = trainer.predict(data)
        alone = trainer.evaluate(data)["eval_loss"]
        trainer.compute_metrics = accuracy
        measured = trainer.evaluate(data)
        found.append((predicted.predictions, alone, measured["eval_loss"], measured["eval_right"]))
    assert found[1][0].shape == (4, 10, VOCABULARY)
    assert (found[1][0] == found[0][0]).all()
    assert found[1][1:] == pytest.approx(found[0][1:], rel=2e-5)
    # Where only the loss is asked for, no logits are made.
    seen = []
    handle = model.register_forward_hook(lambda module, args, output: seen.append(output.logits))
    trainer.compute_metrics = None
    trainer.evaluate(data)
    handle.remove()
    assert len(seen) == 2
    assert all((logits is None) != eval_logits for logits in seen)


class _Watch(transformers.TrainerCallback):
    """Note weights and scale after every step."""

    def __init__(self, scaler, parameter):
        self.scaler, self.parameter, self.seen = scaler, parameter, []

    def on_step_end(self, args, state, control, **kwargs):
        self.seen.append((self.parameter.detach().clone(), self.scaler.get_scale()))


@pytest.mark.parametrize("way", ["NeuralCollapseTrainer", "with a term", "apply_to"])
def test_a_step_with_an_infinite_feature_is_skipped(way, tmp_path):
    model = build("LlamaForCausalLM")
    terms = {"nc3": DualityRegularizer(VOCABULARY, 16, range(5, 40), weight=0.5)}
    terms = terms if way == "with a term" else {}
    if way == "apply_to":
        ncfast.apply_to(model)
    args = transformers.TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=4,
        max_steps=4,
        learning_rate=1e-2,
        max_grad_norm=0,  # accelerate unscales gradients for it in its own fp16 only
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="no",
        logging_nan_inf_filter=False,
    )
    cls = transformers.Trainer if way == "apply_to" else NeuralCollapseTrainer
    more = {} if way == "apply_to" else {"terms": terms}
    trainer = cls(model, args, train_dataset=rows(16), data_collator=collate, **more)
    # As accelerate does for fp16, which it takes on a GPU only.
    scaler = trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    watch = _Watch(scaler, model.lm_head.weight)
    trainer.add_callback(watch)
    before, calls = model.lm_head.weight.detach().clone(), []

    def overflow(module, args, output):
        if not module.training:  # a look at the loss, in eval mode
            return output
        calls.append(1)
        return output.masked_fill(torch.arange(16) == 3, torch.inf) if len(calls) == 2 else output

    model.model.norm.register_forward_hook(overflow)
    trainer.train()
    weights, scales = zip(*watch.seen, strict=True)
    assert scales == (8.0, 4.0, 4.0, 4.0)
    assert not torch.equal(weights[0], before)
    assert torch.equal(weights[1], weights[0])  # skipped, and only this one
    assert not torch.equal(weights[2], weights[1])
    assert torch.isfinite(weights[3]).all()


def test_measuring_names_where_the_infinite_feature_is():
    stats = ncfast.ClassStatistics(VOCABULARY, 4)
    x = torch.ones(6, 4, dtype=torch.float16)
    x[4, 2] = torch.inf
    with pytest.raises(ncfast.DataError, match=r"x\[4, 2\] is inf"):
        stats.update(x, torch.arange(6))
    assert stats.tokens == 0
