"""A tiny model, a text and what a step needs, made anew for every test that trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ncfast.language import Corpus, LanguageModel
from ncfast.losses import DualityRegularizer
from ncfast.training import Objective, TrainingBatches, make_optimizer

GENDER_IDS = list(range(5, 15))


@dataclass
class Setup:
    """Hold one run's pieces."""

    model: LanguageModel
    batches: TrainingBatches
    objective: Objective
    optimizer: torch.optim.Optimizer

    def gradients(self) -> dict[str, torch.Tensor]:
        """Return a copy of every gradient."""
        named = self.model.model.named_parameters()
        return {name: p.grad.clone() for name, p in named if p.grad is not None}


def without_dropout(model: LanguageModel) -> None:
    """Switch dropout off: micro-batches draw other masks than one big batch."""
    for module in model.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


@pytest.fixture
def setup_run(tiny_model, tiny_text: Path) -> Callable[..., Setup]:
    """Return a function that makes model, batches, objective and optimiser."""

    def make(
        kind: str = "masked",
        weight: float = 0.5,
        grad: str = "both",
        dropout: bool = True,
        **settings,
    ) -> Setup:
        model = LanguageModel.load(str(tiny_model(kind)), progress=False)
        if not dropout:
            without_dropout(model)
        model.model.train()
        corpus = Corpus.from_spec([str(tiny_text)], model.tokenizer, None, 32, progress=False)
        task = "mlm" if kind == "masked" else "clm"
        words = {"mask_words": 0.8, "mask_words_ids": GENDER_IDS}
        batches = TrainingBatches(corpus, model, task, 8, **words)
        terms = {}
        if weight:
            place = (model.vocab_size, model.hidden_size, GENDER_IDS)
            terms["nc3"] = DualityRegularizer(*place, grad=grad, weight=weight).train()
        optimizer = make_optimizer(model.model, "AdamW", 1e-3)
        return Setup(model, batches, Objective(model, terms, **settings), optimizer)

    return make
