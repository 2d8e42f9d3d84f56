"""The training job: a model and a text in, a fine-tuned model and a before/after report out."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any

import torch

from .errors import DataError
from .finetune_model import merged, save_model, with_lora, with_new_head
from .finetune_report import before_after, describe_seen, render
from .finetune_terms import TermSettings, make_terms
from .language import Corpus, LanguageError, LanguageModel, WordSet
from .language.labels import IGNORE
from .losses import cross_entropy_sums
from .measure import measure
from .measure_pass import differences
from .presets import preset as find_preset
from .reporting import read_report, strict
from .reporting.document import write_atomically
from .training import (
    LoopSettings,
    Objective,
    Ranks,
    Training,
    TrainingBatches,
    make_optimizer,
    set_recompute,
)
from .training.batches import TASK_OF_KIND, Task
from .training.checkpoints import PARTIAL, newest_checkpoint
from .training.log import read_log
from .training.memory import MemoryPlan, fit, give_memory_back, peak_memory, plan, reset_peak

HELD_OUT_TOKENS = 50_000


@dataclass
class FinetuneResult:
    """Hold what a fine-tuning run made.

    Args:
        model: the trained model, in eval mode.
        report: before, after, what the terms saw.
        path: the folder.

    Example:
        >>> result.report["sets"]["gender"]["unc3_std"]  # doctest: +SKIP
        {'before': 0.14, 'after': 0.09}
    """

    model: LanguageModel
    report: dict[str, Any]
    path: Path


@dataclass
class FinetuneSettings:
    """Hold every setting of :func:`finetune` besides model, text and folder.

    Args:
        terms: the neural-collapse terms.
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
            loaded; chooses ``recompute`` and at least ``accumulate``. None: no limit.
        dtype: of the weights: ``"float32"``, or ``"bfloat16"`` (for LoRA on a large model).
        head_budget: bytes of logits kept for backward.
        mask_rate: share of tokens predicted under ``mlm``.
        mask_words: the same for the word sets' tokens; None takes ``mask_rate``.
        label_smoothing: of the cross-entropy.
        held_out: share of the blocks kept from training, for perplexity.
        max_tokens: tokens of text to train on.
        measure_tokens: tokens of text to measure before and after; 0 measures nothing.
        lora: rank of LoRA adapters on all linear layers of the body; 0 trains all weights.
        metrics_every, save_every_seconds: see ``LoopSettings``.
        seed: of order, masks, dropout and LoRA.
        device: where to run.
        progress: show bars on stderr.

    Example:
        >>> FinetuneSettings(steps=10).batch_size
        32
    """

    terms: TermSettings = field(default_factory=TermSettings)
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
    label_smoothing: float = 0.0
    held_out: float = 0.05
    max_tokens: int | None = None
    measure_tokens: int | None = 200_000
    lora: int = 0
    metrics_every: int = 50
    save_every_seconds: float = 300.0
    seed: int = 0
    device: str = "cpu"
    progress: bool = True


def finetune(
    model: str | LanguageModel,
    texts: str | Sequence[str],
    out: str | os.PathLike[str],
    settings: FinetuneSettings | None = None,
    resume: bool = False,
    force: bool = False,
    new_head: bool = False,
    command: str | None = None,
) -> FinetuneResult:
    """Fine-tune a language model, with or without neural-collapse terms.

    Args:
        model: a demo, hub name, folder or ``pypi:`` spec, or a loaded ``LanguageModel``, which is
            trained in place.
        texts: one or more texts.
        out: folder of the result: ``model/`` (loads with ``from_pretrained``), ``before/`` and
            ``after/`` (reports of ``ncfast measure``), ``steps.jsonl``, ``finetune.json`` and
            ``finetune.md``.
        settings: everything else.
        resume: go on from the last checkpoint in ``out``; start anew if there is none.
        force: overwrite what ``out`` holds.
        new_head: give a bare encoder an untrained masked-LM head, tied to its word embeddings.
        command: the command line to name in the report.

    Returns:
        Model, report and folder.

    Raises:
        LanguageError: model, text or word sets cannot be used.
        ValueError: a setting makes no sense, a loss is not finite, or ``out`` holds something else.
        TrainingInterrupted: Ctrl-C; a checkpoint was saved first.

    Example:
        >>> finetune("demo:bert-tiny", "demo:text", "out", new_head=True)  # doctest: +SKIP
    """
    settings = settings or FinetuneSettings()
    texts = [texts] if isinstance(texts, (str, os.PathLike)) else list(texts)
    folder, ranks = Path(out), Ranks.current()
    _check(settings)
    give_memory_back()
    start = 0
    if not isinstance(model, LanguageModel):
        model = LanguageModel.load(
            model,
            device=settings.device,
            dtype=getattr(torch, settings.dtype),
            progress=settings.progress,
        )
    if model.kind == "encoder":
        model = with_new_head(model, settings.seed, new_head)
    task = settings.task or TASK_OF_KIND[model.kind]
    if TASK_OF_KIND[model.kind] != task:
        raise LanguageError(
            f"task {task!r} with {model.name}, a {model.kind} model; wanted "
            f"{TASK_OF_KIND[model.kind]!r}"
        )
    block = settings.block_size or min(128, model.max_positions or 128)
    corpus = Corpus.from_spec(
        texts, model.tokenizer, settings.max_tokens, block, progress=settings.progress
    )
    training, held_out = split_blocks(corpus.num_blocks, settings.held_out)
    terms, ids = make_terms(model, corpus, settings.terms)
    official = settings.terms.preset == "official" and bool(terms)
    common: dict[str, Any] = {"seed": settings.seed, "mask_rate": settings.mask_rate}
    batches = TrainingBatches(
        corpus,
        model,
        task,
        settings.batch_size,
        training,
        mask_words=settings.mask_words,
        mask_words_ids=ids,
        term_next=official,
        **common,
    )
    checked = (
        TrainingBatches(corpus, model, task, settings.batch_size, held_out, **common)
        if held_out
        else None
    )
    steps = settings.steps or settings.epochs * batches.steps_per_epoch
    identity = _identity(model, corpus, settings, steps)
    _prepare(folder, identity, resume, force)
    before = _evaluate(model, texts, checked, folder / "before", settings, block, resume, force)
    model = with_lora(model, settings.lora, settings.seed)
    set_recompute(model.model, settings.recompute)
    objective = Objective(
        model,
        terms,
        settings.accumulate,
        settings.precision,
        settings.head_budget,
        settings.label_smoothing,
        official,
        settings.seed,
        ranks,
    )
    optimizer = make_optimizer(model.model, settings.optimizer, settings.lr, settings.weight_decay)
    loop = LoopSettings(
        steps,
        settings.lr,
        settings.schedule,
        settings.warmup,
        settings.clip,
        settings.metrics_every,
        settings.save_every_seconds,
        settings.progress,
    )
    run = Training(objective, optimizer, batches, loop, folder, identity)
    if resume:
        run.resume()
    memory = _plan(run, settings)
    if run.step < steps:
        if settings.progress and ranks.rank == 0:
            print(memory.render(limit=settings.memory_limit), file=sys.stderr)
        # What the process holds besides its weights (libraries, text) is not the step's.
        start = reset_peak() - memory.weights
        run.run()
    measured = peak_memory(model.device, start) if run.ran else None
    model = merged(model)
    model.model.eval()
    if ranks.rank == 0:
        save_model(model, folder / "model")
    after = _evaluate(model, texts, checked, folder / "after", settings, block, resume, force)
    report = before_after(
        {"settings": {**asdict(settings), "task": task, "steps": steps}, "command": command},
        (before, after),
        read_log(folder / "steps.jsonl"),
        {name: describe_seen(term, model) for name, term in terms.items()},
    )
    report["memory"] = {**asdict(memory), "measured": measured, "text": memory.render(measured)}
    if ranks.rank == 0:
        write_atomically(folder / "finetune.md", render(report))
        write_atomically(folder / "finetune.json", _json(report))
    for term in terms.values():
        term.warn_if_idle()
    return FinetuneResult(model, report, folder)


def _plan(run: Training, settings: FinetuneSettings) -> MemoryPlan:
    batch = run.batches(0, run.objective.ranks.rank, run.objective.ranks.size)
    if settings.memory_limit is None:
        return plan(run.objective, run.optimizer, batch)
    return fit(run.objective, run.optimizer, batch, settings.memory_limit)


def _json(report: dict[str, Any]) -> str:
    import json

    return json.dumps(strict(report), indent=1, ensure_ascii=False, default=str) + "\n"


def _check(settings: FinetuneSettings) -> None:
    terms = settings.terms
    for name in ("nc1", "nc3", "alignment", "uniformity"):
        value = getattr(terms, name)
        if not 0 <= value < math.inf:
            raise ValueError(f"the weight {name} is {value}; wanted 0 or more")
    find_preset(terms.preset)
    for name in ("batch_size", "accumulate", "epochs"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{name}={getattr(settings, name)}; wanted at least 1")
    if settings.accumulate > settings.batch_size:
        raise ValueError(
            f"accumulate={settings.accumulate} of {settings.batch_size} blocks; wanted at most "
            "one micro-batch per block"
        )
    if not 0 <= settings.held_out < 1:
        raise ValueError(f"held_out={settings.held_out}; wanted a share from 0 up to 1")
    if settings.dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype={settings.dtype!r}; wanted 'float32' or 'bfloat16'")
    if settings.memory_limit is not None and settings.memory_limit < 1:
        raise ValueError(f"memory_limit={settings.memory_limit}; wanted bytes, above 0")
    if settings.lora < 0:
        raise ValueError(f"lora={settings.lora}; wanted a rank, 0 for none")


def split_blocks(blocks: int, held_out: float) -> tuple[list[int], list[int]]:
    """Keep every n-th block from training, so that both parts are of the whole text.

    Args:
        blocks: how many there are.
        held_out: share to keep back.

    Returns:
        Blocks to train on and blocks kept back.

    Example:
        >>> split_blocks(6, 0.34)
        ([0, 1, 3, 4], [2, 5])
    """
    if not held_out or blocks < 2:
        return list(range(blocks)), []
    every = max(2, min(blocks, int(1 / held_out)))
    kept = range(every - 1, blocks, every)
    return [block for block in range(blocks) if block % every != every - 1], list(kept)


def _identity(
    model: LanguageModel, corpus: Corpus, settings: FinetuneSettings, steps: int
) -> dict[str, Any]:
    """Describe what decides the curve, in values that JSON keeps exactly."""
    free = (
        "memory_limit",
        "metrics_every",
        "save_every_seconds",
        "progress",
        "device",
        "measure_tokens",
    )
    decisive = {k: v for k, v in asdict(settings).items() if k not in (*free, "epochs", "terms")}
    terms = asdict(settings.terms) | {"words": [_word_name(w) for w in settings.terms.words]}
    return strict(
        {
            "model": PurePath(model.name).name,
            "weights": model.fingerprint,
            "text": corpus.fingerprint,
            **decisive,
            **{f"term {name}": value for name, value in terms.items()},
            "steps": steps,
        }
    ) | {"undefined": {}}


def _word_name(word: str | WordSet) -> str:
    word_set = word if isinstance(word, WordSet) else WordSet.load(str(word))
    words = hashlib.sha256(repr(word_set.words).encode()).hexdigest()[:16]
    return f"{word_set.name} ({len(word_set.words)} words, {words})"


def _prepare(folder: Path, identity: dict[str, Any], resume: bool, force: bool) -> None:
    """Make the folder, and refuse to overwrite another run's work."""
    from .training.checkpoints import read_identity

    folder.mkdir(parents=True, exist_ok=True)
    found = newest_checkpoint(folder)
    if force and Ranks.current().rank == 0:
        for path in folder.glob("checkpoint-*"):
            shutil.rmtree(path)
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        return
    if found is None:
        return
    if not resume:
        raise DataError(
            f"{folder} holds a run of {found.name.removeprefix('checkpoint-')} steps; go on with "
            "--resume, choose another folder with --out, or overwrite it with --force"
        )
    if different := differences(read_identity(found), identity):
        raise DataError(
            f"{found}: the checkpoint of another run: {'; '.join(different)}; choose another "
            "folder, or the same model, text and settings"
        )


def _evaluate(
    model: LanguageModel,
    texts: Sequence[str],
    held_out: TrainingBatches | None,
    folder: Path,
    settings: FinetuneSettings,
    block_size: int,
    resume: bool,
    force: bool,
) -> dict[str, Any]:
    """Measure collapse and perplexity of the model as it is; read what was measured before."""
    marker = folder / "perplexity.json"
    report: dict[str, Any] = {}
    if Ranks.current().rank:
        return report
    done = resume and marker.exists()
    if done and folder.name == "before":  # the weights of then are gone
        kept = read_report(folder) if (folder / "report.json").exists() else {}
        return {"report": kept, "perplexity": _read_perplexity(marker)}
    if settings.measure_tokens != 0:
        report = measure(
            model,
            texts,
            words=settings.terms.words,
            max_tokens=settings.measure_tokens,
            block_size=block_size,
            out=folder,
            resume=resume,
            force=force or folder.name == "after",
            progress=settings.progress,
            seed=settings.seed,
        ).report
    value = perplexity(model, held_out) if held_out is not None else math.nan
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(marker, _json({"perplexity": value}))
    return {"report": report, "perplexity": value}


def _read_perplexity(path: Path) -> float:
    import json

    value = json.loads(path.read_text(encoding="utf-8"))["perplexity"]
    return math.nan if value is None else float(value)


@torch.no_grad()
def perplexity(model: LanguageModel, batches: TrainingBatches) -> float:
    """Return exp of the mean negative log-likelihood of the predicted tokens of one epoch.

    Args:
        model: in any mode; evaluated in eval mode.
        batches: the text, with the masks of its first epoch.

    Returns:
        The perplexity; of a masked model, over its masked positions (pseudo-perplexity).

    Example:
        >>> perplexity(model, batches)  # doctest: +SKIP
        12.5
    """
    was_training = model.model.training
    model.model.eval()
    total, count, read = 0.0, 0, 0
    try:
        for batch in batches:
            features = model.features(
                batch.input_ids.to(model.device), batch.attention_mask.to(model.device)
            )
            kept = batch.labels != IGNORE
            sums = cross_entropy_sums(
                features[kept.to(features.device)],
                model.head_weight,
                batch.labels[kept].to(features.device),
                model.head_bias,
                softcap=model.softcap,
            )
            total, count = total + float(sums.nll), count + int(sums.tokens)
            read += batch.tokens
            if read >= HELD_OUT_TOKENS:
                break
    finally:
        model.model.train(was_training)
    return math.exp(total / count) if count else math.nan
