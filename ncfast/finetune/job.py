"""From model and text to a fine-tuned model: measure, train, measure again, write."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .. import durable_file
from ..fairness.recipes import Recipe, RecipeError, find_recipe
from ..language import Corpus, LanguageError, LanguageModel
from ..language.packing import block_size_of
from ..losses import Regularizer
from ..reporting import strict
from ..reporting.document import write_atomically
from ..running.options import listed, with_options
from ..training import Ranks, TrainingBatches
from ..training.batches import TASK_OF_KIND, Task
from ..training.log import read_log
from ..training.process_memory import give_memory_back
from .evaluate import evaluate
from .folder import check_name, clear, identity_of, prepare
from .model import save_model, with_new_head
from .report import before_after, describe_seen, render, write_page
from .settings import FinetuneSettings
from .terms import make_terms, word_ids
from .texts import TrainingText, batches_kept_back, read_training
from .train import train


@dataclass
class FinetuneResult:
    """Hold what a fine-tuning run made."""

    model: LanguageModel  # the trained model, in eval mode
    report: dict[str, Any]  # before, after, what the terms saw
    path: Path  # the folder


@durable_file.releases_claims
def finetune(
    model: str | LanguageModel,
    texts: str | Sequence[str],
    out: str | os.PathLike[str],
    settings: FinetuneSettings | None = None,
    resume: bool = False,
    force: bool = False,
    new_head: bool = False,
    command: str | None = None,
    **options: Any,
) -> FinetuneResult:
    """Fine-tune a language model, with or without neural-collapse terms.

    Args:
        model: a demo, hub name, folder or ``pypi:`` spec, or a loaded ``LanguageModel``, which is
            trained in place.
        texts: one or more texts.
        out: folder of the result: ``model/`` (loads with ``from_pretrained``), ``before/`` and
            ``after/`` (reports of ``ncfast measure``), ``compare.html`` (both side by side, with
            ``.md`` and ``.json``), ``steps.jsonl``, ``finetune.json`` and ``finetune.md``.
        settings: everything else; None takes the defaults.
        resume: go on from the last checkpoint in ``out``; start anew if there is none.
        force: overwrite what ``out`` holds.
        new_head: give a bare encoder an untrained masked-LM head, tied to its word embeddings.
        command: the command line to name in the report.
        options: fields of :class:`FinetuneSettings` by name, in the place of those in
            ``settings``: ``finetune(model, texts, out, steps=100, lr=1e-4)``.

    Returns:
        Model, report and folder.

    Raises:
        LanguageError: model, text or word sets cannot be used.
        ValueError: a setting makes no sense, a loss is not finite, or ``out`` holds something else.
        TypeError: there is no setting of that name.
        TrainingInterrupted: Ctrl-C; a checkpoint was saved first.

    >>> from ncfast.finetune import TermSettings
    >>> terms = TermSettings(nc3=0.1)
    >>> few = {"steps": 2, "max_tokens": 2_000, "measure_tokens": 2_000, "progress": False}
    >>> done = finetune("my-model", "notes.txt", "fair", terms=terms, **few)
    >>> sorted(done.report["sets"]["gender"]["unc3_std"])
    ['after', 'before', 'change']
    """
    ranks = Ranks.current()
    with ranks.sharing_errors():
        settings = with_options("finetune", FinetuneSettings, settings, options)
        texts, folder = listed(texts), Path(out)
        check_name(folder)
        give_memory_back()
        model, recipe = _load(model, settings, new_head)
        inputs = _read(texts, model, recipe, settings)
        inputs.batches.require_rows(inputs.steps, ranks.size)
        own = identity_of(model, inputs.text, inputs.validation, inputs.steps, settings)
        identity = own | recipe.identity()
        prepare(folder, identity, resume, force)
    with ranks.sharing_errors():  # all wait until the first one has done it
        if ranks.rank == 0:
            clear(folder, force)

    waiting = ranks.patient()  # the first rank measures and saves alone

    def measured(name: str, model: LanguageModel) -> dict[str, Any]:
        run: dict[str, Any] = {"resume": resume, "force": force}
        run["block_size"] = inputs.text.corpus.block_size
        with waiting.sharing_errors():
            return evaluate(model, texts, inputs.held_out, folder / name, settings, **run)

    known = inputs.text.trained_on(model.tokenizer)
    before = measured("before", model)
    run = {"folder": folder, "identity": identity, "resume": resume}
    model, said = _changed(model, inputs, recipe, known, settings, **run)
    model.model.eval()
    with waiting.sharing_errors():
        if ranks.rank == 0:
            save_model(model, folder / "model")
    after = measured("after", model)
    report = before_after(
        _settings(inputs, recipe, settings, said["done"], command),
        (before, after),
        read_log(folder / "steps.jsonl"),
        {name: describe_seen(term, model) for name, term in inputs.terms.items()},
    )
    report["memory"] = said["memory"]
    if ranks.rank == 0:
        report["page"] = write_page(before, after, folder, command)
        write_atomically(folder / "finetune.md", render(report))
        write_atomically(folder / "finetune.json", _json(report))
    for term in inputs.terms.values():
        term.warn_if_idle()
    return FinetuneResult(model, report, folder)


@dataclass
class _Inputs:
    """Hold what is trained on, and what perplexity is measured on."""

    task: Task
    text: TrainingText
    validation: Corpus | None
    batches: TrainingBatches
    held_out: TrainingBatches | None
    terms: Mapping[str, Regularizer]
    steps: int  # of the optimiser; 0 for a recipe that does not train


def _changed(
    model: LanguageModel,
    inputs: _Inputs,
    recipe: Recipe,
    corpus: Corpus,
    settings: FinetuneSettings,
    **run: Any,
) -> tuple[LanguageModel, dict[str, Any]]:
    """Return the model that training or a closed form makes, and what to report of it."""
    if not recipe.trained:
        model, done = recipe.edit(model, corpus, settings.seed)
        return model, {"memory": None, "done": done}
    batches, terms = inputs.batches, inputs.terms
    model, memory = train(
        model, batches, terms, recipe, corpus, settings=settings, steps=inputs.steps, **run
    )
    return model, {"memory": memory, "done": {}}


def _settings(
    inputs: _Inputs,
    recipe: Recipe,
    settings: FinetuneSettings,
    done: Mapping[str, Any],
    command: str | None,
) -> dict[str, Any]:
    """Return what the report says of the run's settings."""
    return {
        "settings": {**asdict(settings), "task": inputs.task, "steps": inputs.steps},
        "command": command,
        "recipe": {"name": recipe.name, "text": inputs.text.counts, "done": done},
        "held_out": None if inputs.held_out is None else inputs.held_out.fingerprint,
    }


def _load(
    model: str | LanguageModel, settings: FinetuneSettings, new_head: bool
) -> tuple[LanguageModel, Recipe]:
    """Return the model, with a head, and the recipe, which takes such a model."""
    if not isinstance(model, LanguageModel):
        dtype = getattr(torch, settings.dtype)
        model = LanguageModel.load(model, settings.device, dtype, progress=settings.progress)
    if model.kind == "encoder":
        model = with_new_head(model, settings.seed, new_head)
    elif new_head:
        # A warning: protocols that were committed before a run ask for it with such a model.
        warnings.warn(
            f"new_head is for bare encoders; {model.name} has a language-model head, which is kept",
            stacklevel=2,
        )
    recipe = find_recipe(settings.recipe, settings.recipe_options)
    recipe.require(model)
    return model, recipe


def _read(
    texts: Sequence[str], model: LanguageModel, recipe: Recipe, settings: FinetuneSettings
) -> _Inputs:
    """Read the texts, and make the terms and the batches."""
    task = settings.task or TASK_OF_KIND[model.kind]
    if TASK_OF_KIND[model.kind] != task:
        raise LanguageError(
            f"task {task!r} with {model.name}, a {model.kind} model; expected "
            f"{TASK_OF_KIND[model.kind]!r}"
        )
    usual = settings.mask_words is None and settings.mask_rate == FinetuneSettings.mask_rate
    if task == "clm" and not usual:
        raise LanguageError(
            f"mask_rate={settings.mask_rate}, mask_words={settings.mask_words} with task 'clm', "
            "which masks nothing; expected neither"
        )
    text = read_training(texts, model, settings, recipe, block_size_of(model, settings.block_size))
    validation, held_out = batches_kept_back(text, model, settings, recipe)
    terms, ids = make_terms(model, text.corpus, settings.terms)
    if settings.mask_words_of:
        ids = word_ids(model, settings.mask_words_of, "ncfast")  # whatever the arm
    common: dict[str, Any] = {"seed": settings.seed, "mask_rate": settings.mask_rate}
    masks = {"mask_words": settings.mask_words, "mask_words_ids": ids}
    if own_masks := recipe.masking(model):
        if settings.mask_words is not None:
            raise RecipeError(
                f"mask_words={settings.mask_words} with recipe {recipe.name!r}, which says itself "
                "what is masked; expected None"
            )
        masks = own_masks
    batches = TrainingBatches(
        text.corpus,
        model,
        task,
        settings.batch_size,
        text.blocks,
        term_next=settings.terms.preset == "official" and bool(terms),
        **(common | masks),
    )
    steps = settings.steps or settings.epochs * batches.steps_per_epoch
    steps = steps if recipe.trained else 0
    return _Inputs(task, text, validation, batches, held_out, terms=terms, steps=steps)


def _json(report: dict[str, Any]) -> str:
    import json

    return json.dumps(strict(report), indent=1, ensure_ascii=False, default=str) + "\n"
