"""NeuralCollapseTrainer's terms: their weight, their state, and a loss that becomes another."""

from __future__ import annotations

import pytest
import torch

from ncfast.errors import DataError
from ncfast.language import LanguageError
from tests.training.families import VOCABULARY, build
from tests.training.test_trainer import collate, curve, rows, transformers

from ncfast.training.trainer import NeuralCollapseTrainer  # isort: skip, needs transformers


def a_term(weight=3.0):
    from ncfast.losses import DualityRegularizer

    return DualityRegularizer(VOCABULARY, 16, range(5, 60), weight=weight)


def trained(folder, model=None, steps=1, accumulate=1, **settings):
    """Train our Trainer; return it and the losses of its steps."""
    base = dict(per_device_train_batch_size=4 // accumulate, max_steps=steps, learning_rate=1e-2)
    base |= dict(gradient_accumulation_steps=accumulate)
    base |= dict(report_to="none", disable_tqdm=True, use_cpu=True, save_strategy="no")
    args = transformers.TrainingArguments(str(folder), logging_steps=1, **base)
    trainer = NeuralCollapseTrainer(
        model, args, train_dataset=rows(), data_collator=collate, **settings
    )
    trainer.train()
    return trainer, [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.mark.parametrize("family", ["LlamaForCausalLM", "BertForMaskedLM", "CohereForCausalLM"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_term_is_added_with_its_whole_weight(family, accumulate, tmp_path):
    """The Trainer has its causal models divide their loss by the tokens: not the term."""
    plain = trained(tmp_path, build(family), accumulate=accumulate)[1][0]
    term, found = a_term(), []
    term.register_forward_hook(lambda module, args, value: found.append(value.item()))
    _, (loss,) = trained(tmp_path, build(family), accumulate=accumulate, terms={"nc3": term})
    assert len(found) == accumulate
    assert min(found) > 0.15
    assert loss == pytest.approx(plain + sum(found) / accumulate, rel=1e-5)


def test_each_model_of_model_init_is_trained_with_the_terms_from_their_start(tmp_path):
    models = []

    def model_init():
        models.append(build("LlamaForCausalLM"))
        return models[-1]

    term = a_term()
    trainer, losses = trained(tmp_path, model_init=model_init, terms={"nc3": term}, steps=2)
    trainer.train()
    assert len(models) == 3
    again = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert again == losses
    assert int(term.calls) == 2
    assert losses[0] > trained(tmp_path, model_init=model_init)[1][0] + 0.1


def test_a_forward_pass_that_is_ours_no_more_is_noticed(tmp_path):
    import types

    import ncfast

    args = transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    for undo in (
        ncfast.restore,
        lambda model: setattr(model, "forward", types.MethodType(type(model).forward, model)),
    ):
        model = build("LlamaForCausalLM")
        trainer = NeuralCollapseTrainer(model, args, terms={"nc3": a_term()})
        undo(model)
        with pytest.raises(LanguageError, match="was replaced or restored since"):
            trainer.compute_loss(model, collate(rows(4)))
    model = build("LlamaForCausalLM")
    ncfast.apply_to(model, terms={"nc3": a_term()})
    with pytest.raises(ValueError, match=r"has terms or label smoothing of ncfast\.apply_to"):
        NeuralCollapseTrainer(model, args)


def test_a_loss_that_becomes_another_stops_the_run_with_both_numbers(tmp_path):
    """What changes at some step, and no look at the start could see, is seen at the last one."""

    class Cold(transformers.LlamaForCausalLM):
        cold = False

        def forward(self, input_ids=None, labels=None, attention_mask=None, **kwargs):
            outputs = super().forward(input_ids, attention_mask, labels=labels, **kwargs)
            # Only real logits: what apply_to follows has none.
            if self.cold and labels is not None and outputs.logits is not None:
                outputs.loss = outputs.loss * isinstance(outputs.logits, torch.Tensor) + 1
            return outputs

    Cold.__name__ = "LlamaForCausalLM"
    model = Cold(build("LlamaForCausalLM").config).train()
    trainer, losses = trained(tmp_path, model, steps=3)
    assert len(losses) == 3
    trainer.evaluate(rows(4))
    model.cold = True
    with pytest.raises(LanguageError, match=r"is \d+\.\d+, and 1 from its features and head"):
        trainer.evaluate(rows(4))
    with pytest.raises(LanguageError, match=r"is \d+\.\d+, and 1 from its features and head"):
        trained(tmp_path, model)

    class Later(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            model.cold = state.global_step == 2

    model.cold = False
    with pytest.raises(LanguageError, match=r"and 1 from its features and head"):
        trained(tmp_path, model, steps=3, callbacks=[Later()])
    assert model.cold


@pytest.mark.parametrize("scale", [60.0, 80.0, 100.0])
def test_autocast_around_the_class_stops_no_run(scale, tmp_path):
    """It rounds the class's logits to 16 bits, and not ours."""
    model = build("LlamaForCausalLM")
    with torch.no_grad():
        model.lm_head.weight.mul_(scale)  # logits of tens, as trained models have
    curve(NeuralCollapseTrainer, tmp_path, model=model, bf16=True)


def test_a_resumed_run_goes_on_with_its_terms_as_they_were(tmp_path):
    """With running class means and a rising weight, which are states of the term."""
    from ncfast.losses import DualityRegularizer, LambdaSchedule

    def run(resume=None, means="ema"):
        rising = LambdaSchedule(3.0, ramp=8)
        kept = dict(means=means, half_life=4.0)
        term = DualityRegularizer(VOCABULARY, 16, range(5, 60), weight=rising, **kept)
        args = transformers.TrainingArguments(
            str(tmp_path / "run"),
            logging_steps=1,
            max_steps=4,
            save_steps=2,
            per_device_train_batch_size=4,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = NeuralCollapseTrainer(
            build("LlamaForCausalLM"),
            args,
            train_dataset=rows(),
            data_collator=collate,
            terms={"nc3": term},
        )
        trainer.train(resume_from_checkpoint=resume)
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        return term.state_dict(), losses

    state, losses = run()
    again, resumed = run(str(tmp_path / "run/checkpoint-2"))
    assert int(again["calls"]) == 4
    assert resumed == losses
    assert state.keys() == again.keys()
    assert all(torch.equal(state[key], again[key]) for key in state)
    with pytest.raises(DataError, match="nc3 is of a DualityRegularizer of ema means; expected a"):
        run(str(tmp_path / "run/checkpoint-2"), means="running")
    (tmp_path / "run/checkpoint-2/ncfast_terms.safetensors").unlink()
    with pytest.warns(UserWarning, match="holds no state of the terms: they begin anew"):
        run(str(tmp_path / "run/checkpoint-2"))
