"""Every setting of a fine-tuning run, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..fairness.recipes import find_recipe
from ..language import WordSet
from ..training.batches import Task
from .terms import TermSettings


@dataclass
class FinetuneSettings:
    """Hold every setting of :func:`finetune` besides model, text and folder.

    Args:
        terms: the neural-collapse terms.
        recipe: how text, model and loss differ from plain fine-tuning, one of
            ``ncfast.fairness.recipes.RECIPES``.
        recipe_options: of the recipe, by name.
        task: ``"mlm"``, ``"clm"`` or None for the model's own.
        steps: optimiser steps; None takes ``epochs``.
        epochs: passes over the text.
        batch_size: blocks in an optimiser step, over all ranks.
        accumulate: micro-batches a step is computed in.
        block_size: tokens in a block; None for 128 or what the model takes.
        lr, schedule, warmup, optimizer, weight_decay, clip: of the optimiser.
        precision: ``"fp32"`` or ``"bf16"``.
        recompute: layers whose activations are computed again in backward.
        memory_limit: bytes a step may take above what the process had before the model was
            loaded; chooses ``recompute``, ``head_budget`` and at least ``accumulate``. None: no
            limit.
        dtype: of the weights: ``"float32"``, or ``"bfloat16"`` (for LoRA on a large model).
        head_budget: bytes of logits kept for backward.
        mask_rate: share of tokens predicted under ``mlm``.
        mask_words: the same for the word sets' tokens; None takes ``mask_rate``.
        mask_words_of: word sets whose tokens ``mask_words`` concerns; empty: those of the terms.
            Runs that differ in their terms alone have the same masks only if this is the same.
        label_smoothing: of the cross-entropy.
        held_out: share of the blocks kept from training, for perplexity.
        validation: texts for perplexity in place of that share; then every block is trained on.
        max_tokens: tokens of text to train on.
        text_column: column that holds the text, in texts with several.
        measure_tokens: tokens of text to measure before and after; 0 measures nothing.
        lora: rank of LoRA adapters on all linear layers of the body; 0 trains all weights.
        metrics_every, save_every_seconds: see ``LoopSettings``.
        seed: of order, masks, dropout and LoRA.
        device: where to run.
        progress: show bars on stderr.

    >>> FinetuneSettings(steps=10).batch_size
    32
    """

    terms: TermSettings = field(default_factory=TermSettings)
    recipe: str = "plain"
    recipe_options: Mapping[str, Any] = field(default_factory=dict)
    task: Task | None = None
    steps: int | None = None
    epochs: int = 1
    batch_size: int = 32
    accumulate: int = 1
    block_size: int | None = None
    lr: float = 5e-5
    schedule: str = "linear"
    warmup: int = 0
    optimizer: str = "AdamW"
    weight_decay: float = 0.01
    clip: float = 1.0
    precision: str = "fp32"
    recompute: int = 0
    memory_limit: int | None = None
    dtype: str = "float32"
    head_budget: int = 0
    mask_rate: float = 0.15
    mask_words: float | None = None
    mask_words_of: tuple[str | WordSet, ...] = ()
    label_smoothing: float = 0.0
    held_out: float = 0.05
    validation: tuple[str, ...] = ()
    max_tokens: int | None = None
    text_column: str | None = None
    measure_tokens: int | None = 200_000
    lora: int = 0
    metrics_every: int = 50
    save_every_seconds: float = 300.0
    seed: int = 0
    device: str = "cpu"
    progress: bool = True

    def __post_init__(self) -> None:
        """Reject what makes no sense."""
        recipe = find_recipe(self.recipe, self.recipe_options)
        for name, value in (("steps", self.steps), ("lora", self.lora), ("terms", self.terms.any)):
            if value and not recipe.trained:
                raise ValueError(
                    f"{name} with the recipe {recipe.name!r}, which trains nothing; expected a "
                    "recipe that trains, or none of it"
                )
        for name in ("batch_size", "accumulate", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; expected at least 1")
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate={self.accumulate} of {self.batch_size} blocks; expected at most "
                "one micro-batch per block"
            )
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out={self.held_out}; expected a share from 0 up to 1")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype={self.dtype!r}; expected 'float32' or 'bfloat16'")
        if self.memory_limit is not None and self.memory_limit < 1:
            raise ValueError(f"memory_limit={self.memory_limit}; expected bytes, above 0")
        if self.lora < 0:
            raise ValueError(f"lora={self.lora}; expected a rank, 0 for none")
