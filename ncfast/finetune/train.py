"""The training itself: adapters, objective, memory plan, loop."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..fairness.recipes import Recipe, RecipeError
from ..language import Corpus, LanguageModel
from ..losses import Regularizer
from ..training import (
    LoopSettings,
    Objective,
    Ranks,
    Training,
    TrainingBatches,
    make_optimizer,
    set_recompute,
)
from ..training.memory import MemoryPlan, plan
from ..training.memory_limit import DoesNotFit, fit
from ..training.process_memory import give_memory_back, peak_memory, reset_peak, warm_up
from .model import merged, with_lora
from .settings import FinetuneSettings


def train(
    model: LanguageModel,
    batches: TrainingBatches,
    terms: Mapping[str, Regularizer],
    recipe: Recipe,
    corpus: Corpus,
    settings: FinetuneSettings,
    steps: int,
    folder: Path,
    identity: Mapping[str, Any],
    resume: bool,
) -> tuple[LanguageModel, dict[str, Any]]:
    """Train a model to the last step, or from its last checkpoint on.

    The recipe changes the model for its training, and may bring a loss of its own, which ``corpus``
    is for; such a loss takes no memory limit and no adapters. ``identity`` is what decides the run.
    Return the trained model, without adapters, and the memory plan beside what was measured.
    """
    start, ranks = 0, Ranks.current()
    restore = recipe.prepare(model)
    model = with_lora(model, settings.lora, settings.seed)
    set_recompute(model.model, settings.recompute)
    own = recipe.own_loss(model, corpus, settings.seed)
    if own is not None and settings.memory_limit is not None:
        raise RecipeError(
            f"memory_limit with recipe {recipe.name!r}, whose own passes the plan does not see; "
            "expected no limit"
        )
    objective = Objective(
        model,
        terms,
        settings.accumulate,
        settings.precision,
        settings.head_budget,
        label_smoothing=settings.label_smoothing,
        encoder_features=settings.terms.preset == "official" and bool(terms),
        seed=settings.seed,
        ranks=ranks,
        own=own,
    )
    optimizer = make_optimizer(model.model, settings.optimizer, settings.lr, settings.weight_decay)
    loop = LoopSettings(
        steps,
        settings.lr,
        settings.schedule,
        settings.warmup,
        settings.clip,
        metrics_every=settings.metrics_every,
        save_every_seconds=settings.save_every_seconds,
        progress=settings.progress,
    )
    run = Training(objective, optimizer, batches, loop, folder, identity=identity)
    if resume and run.resume() and ranks.rank == 0 and (said := run.other_processes()):
        print(said, file=sys.stderr)
    memory, runtime = _plan(run, settings)
    if run.step < steps:
        if settings.progress and ranks.rank == 0:
            print(memory.render(limit=settings.memory_limit), file=sys.stderr)
        give_memory_back(memory.peak)
        # What the process holds besides its weights (libraries, text) is not the step's.
        start = reset_peak() - memory.weights - runtime
        run.run()
    measured = peak_memory(model.device, start) if run.ran else None
    restore()
    text = memory.render(measured)
    if own is not None:
        text += f"\n  predicted without the own passes of the recipe {recipe.name}"
    return merged(model), {**asdict(memory), "measured": measured, "text": text}


def _plan(run: Training, settings: FinetuneSettings) -> tuple[MemoryPlan, int]:
    """Return the plan, and the bytes that libraries took when warmed up."""
    batch = run.batches(0, run.objective.ranks.rank, run.objective.ranks.size)
    runtime = warm_up(run.objective, batch)
    if settings.memory_limit is None:
        return plan(run.objective, run.optimizer, batch, runtime), runtime
    try:
        return fit(run.objective, run.optimizer, batch, settings.memory_limit, runtime), runtime
    except DoesNotFit:
        if run.step < run.settings.steps:
            raise
        return plan(run.objective, run.optimizer, batch, runtime), runtime  # nothing is left to fit
