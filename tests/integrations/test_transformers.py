"""The Hugging Face Trainer with our loss and callback; the loop of the example."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerCallback

from ncfast.language import Corpus, LanguageModel
from ncfast.losses import DualityRegularizer
from tests import forked

ROOT = Path(__file__).resolve().parents[2]
WORDS = list(range(5, 15))


def _pieces(tiny_model, tiny_text):
    language = LanguageModel.load(str(tiny_model("causal")), progress=False)
    corpus = Corpus.from_spec([str(tiny_text)], language.tokenizer, block_size=32, progress=False)
    rows = [corpus.take([block]) for block in range(32)]
    names = ("input_ids", "attention_mask")
    data = [{n: getattr(row, n)[0] for n in names} for row in rows]
    for row in data:
        row["labels"] = row["input_ids"].masked_fill(row["attention_mask"] == 0, -100)
    return language, data


def _train(cls, language, data, folder, accumulate=1, callbacks=(), bf16=False, **kwargs):
    from transformers import TrainingArguments

    args = TrainingArguments(
        folder,
        per_device_train_batch_size=8 // accumulate,
        gradient_accumulation_steps=accumulate,
        max_steps=8,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=bf16,
    )
    trainer = cls(
        language.model,
        args,
        train_dataset=data,
        processing_class=language.tokenizer,
        callbacks=list(callbacks),
        **kwargs,
    )
    trainer.train()
    return trainer.state.log_history


@pytest.mark.parametrize("accumulate", [1, 2])
def test_without_a_term_it_is_the_trainer(tiny_model, tiny_text, tmp_path, accumulate):
    from transformers import Trainer

    from ncfast.training.trainer import NeuralCollapseTrainer

    curves = []
    for cls in (Trainer, NeuralCollapseTrainer):
        torch.manual_seed(0)
        language, data = _pieces(tiny_model, tiny_text)
        for module in language.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        history = _train(cls, language, data, tmp_path / cls.__name__, accumulate)
        curves.append([line["loss"] for line in history if "loss" in line])
    assert len(curves[0]) == 8
    assert curves[1] == pytest.approx(curves[0], rel=2e-3)


class _Reporter(TrainerCallback):
    """Stand where TensorBoard or W&B stand: what on_log brings is what they get."""

    def __init__(self) -> None:
        self.lines: list[dict] = []

    def on_log(self, args, state, control, logs, **kwargs) -> None:
        self.lines.append({"step": state.global_step, **logs})


@pytest.mark.parametrize("ours", [True, False])
def test_the_term_and_the_callback_log(tiny_model, tiny_text, tmp_path, ours):
    from ncfast.integrations.transformers import NeuralCollapseCallback
    from ncfast.training.trainer import NeuralCollapseTrainer

    language, data = _pieces(tiny_model, tiny_text)
    held_out = [{name: torch.stack([row[name] for row in data[:8]]) for name in data[0]}]
    callback = NeuralCollapseCallback(held_out, language.tokenizer, WORDS, every=4)
    reporter = _Reporter()
    term = DualityRegularizer(language.vocab_size, language.hidden_size, WORDS, weight=1.0)
    if ours:
        kwargs = {"callbacks": [callback, reporter], "terms": {"nc3": term}}
        history = _train(NeuralCollapseTrainer, language, data, tmp_path, **kwargs)
        assert all(line["nc/nc3"] > 0 for line in history if "loss" in line)
    else:
        cls = _attached(callback)
        history = _train(cls, language, data, tmp_path, callbacks=[reporter])
    assert [line["step"] for line in callback.history] == [4, 8]
    reported = [line for line in reporter.lines if "nc/unc3_std" in line]
    assert [line["step"] for line in reported] == [4, 8]
    assert reported[1]["nc/unc3_std"] == callback.history[1]["nc/unc3_std"]
    assert sum("nc/unc3_std" in line for line in history) == 2
    # What measures must not swallow the Trainer's own rows.
    assert [line["step"] for line in history if "loss" in line] == list(range(1, 9))


def test_batches_that_cannot_be_measured_are_rejected(tiny_model):
    from ncfast.errors import DataError
    from ncfast.integrations.transformers import NeuralCollapseCallback

    language = LanguageModel.load(str(tiny_model("causal")), progress=False)
    ids = torch.arange(5, 17)[None]
    with pytest.raises(TypeError, match="batches is a generator, which is empty when"):
        NeuralCollapseCallback((batch for batch in [{}]), language.tokenizer)
    for batches, message in (
        ([{"input_ids": ids}], r"batch 0 has no labels \(it has: input_ids\)"),
        ([], "no label of the batches"),
        ([{"input_ids": ids, "labels": torch.full_like(ids, -100)}], "no label of the batches"),
    ):
        with pytest.raises(DataError, match=message):
            NeuralCollapseCallback(batches, language.tokenizer).measure(language.model)


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_the_callback_measures_in_float32_under_autocast(tiny_model, tiny_text, tmp_path, kind):
    from transformers import AutoModelForMaskedLM

    from ncfast.integrations.transformers import NeuralCollapseCallback

    language, data = _pieces(tiny_model, tiny_text)
    if kind == "masked":
        language = SimpleNamespace(
            model=AutoModelForMaskedLM.from_pretrained(tiny_model("masked")),
            tokenizer=language.tokenizer,
        )
    held_out = {name: torch.stack([row[name] for row in data[:8]]) for name in data[0]}
    if kind == "masked":
        held_out["token_type_ids"] = (torch.arange(32) // 16).expand(8, -1)
    callback = NeuralCollapseCallback([held_out], language.tokenizer, WORDS, every=8)
    _train(_attached(callback), language, data, tmp_path, bf16=True)
    assert language.model.forward is not language.model._original_forward  # accelerate's autocast
    without = {key: value for key, value in held_out.items() if key != "token_type_ids"}
    other = NeuralCollapseCallback([without], language.tokenizer, WORDS).measure(language.model)
    forward = language.model.forward
    language.model.forward = language.model._original_forward
    alone = callback.measure(language.model)
    assert alone == pytest.approx({k: v for k, v in callback.history[-1].items() if k != "step"})
    assert (alone == pytest.approx(other)) == (kind == "causal")
    with torch.autocast("cpu", torch.bfloat16):
        assert callback.measure(language.model) == alone
    language.model.forward = forward
    assert callback.measure(language.model) == alone
    assert language.model.forward is forward


def _attached(callback):
    """Make a plain Trainer that a user has attached the callback to."""
    from transformers import Trainer

    def make(*args, **kwargs):
        trainer = Trainer(*args, **kwargs)
        callback.attach(trainer)
        return trainer

    return make


def test_the_example_in_plain_pytorch(tiny_model, tiny_text):
    example = ROOT / "examples" / "plain_pytorch.py"
    assert len(example.read_text().splitlines()) <= 30
    done = forked.run([example, tiny_model("causal"), tiny_text], cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "loss " in done.stdout


@pytest.mark.quick
@pytest.mark.parametrize("name", ["trainer", "sft_trainer"])
def test_the_examples_with_a_trainer(name, tiny_model, tiny_text, tmp_path):
    if name == "sft_trainer":
        pytest.importorskip("trl")
    example = ROOT / "examples" / f"{name}.py"
    done = forked.run([example, tiny_model("causal"), tiny_text, tmp_path], cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = done.stdout.replace('"', "'")
    assert rows.count("'nc/unc3_std'") == 2
    assert rows.count("'loss'") == 4
    assert "loss " in rows.splitlines()[-1]


def test_the_callback_measures_a_float64_model_as_it_is(tiny_model, tiny_text):
    from ncfast.integrations.transformers import SHOWN, NeuralCollapseCallback
    from ncfast.metrics import neural_collapse
    from ncfast.statistics import ClassStatistics

    language, data = _pieces(tiny_model, tiny_text)
    language.model.double()
    held_out = {name: torch.stack([row[name] for row in data[:8]]) for name in data[0]}
    stats = ClassStatistics(
        language.vocab_size, language.hidden_size, WORDS, scatter=False, dtype=torch.float64
    )
    with torch.no_grad():
        ids, mask = held_out["input_ids"], held_out["attention_mask"]
        out = language.model.eval()(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        features = out.hidden_states[-1]
    stats.update(features[:, :-1].flatten(0, 1), held_out["labels"][:, 1:].flatten())
    head = language.model.get_output_embeddings().weight.detach()
    report = neural_collapse(stats, head_weight=head)
    found = NeuralCollapseCallback([held_out], language.tokenizer, WORDS).measure(language.model)
    assert found == {f"nc/{key}": float(report[key]) for key in SHOWN if key in report}
