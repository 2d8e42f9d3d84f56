"""What ``accelerate launch`` starts in tests: ``launched_trainer.py MODEL OUT RANKS``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import TrainingArguments

from ncfast.language import LanguageModel
from ncfast.losses import DualityRegularizer
from ncfast.testing import end_rank
from ncfast.training.trainer import NeuralCollapseTrainer

WORDS = list(range(5, 15))


def main(folder: str, out: Path, ranks: int) -> None:
    """Train a few steps of 8 rows in all, and keep curve and weights."""
    language = LanguageModel.load(folder, progress=False)
    for module in language.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    ids = torch.randint(5, 60, (32, 32), generator=torch.Generator().manual_seed(0))
    ids[::3, 20:] = -100  # rows, and so ranks, with other numbers of tokens
    data = [{"input_ids": row.clamp(min=0), "labels": row} for row in ids]
    args = TrainingArguments(
        str(out / "trainer"),
        per_device_train_batch_size=8 // ranks,
        max_steps=4,
        learning_rate=1e-2,
        optim="sgd",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        ddp_find_unused_parameters=False,
    )
    place = (language.vocab_size, language.hidden_size, WORDS)
    trainer = NeuralCollapseTrainer(
        language.model,
        args,
        train_dataset=data,
        eval_dataset=data[:8],
        processing_class=language.tokenizer,
        terms={"nc3": DualityRegularizer(*place, weight=0.5).train()},
    )
    assert trainer.accelerator.num_processes == ranks
    trainer.train()
    evaluated = trainer.evaluate()["eval_loss"]
    if trainer.is_world_process_zero():
        weights = {n: p.detach() for n, p in language.model.named_parameters()}
        history = [line for line in trainer.state.log_history if "loss" in line]
        torch.save({"weights": weights, "history": history, "evaluated": evaluated}, out / "run.pt")
    if ranks > 1:
        end_rank()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
