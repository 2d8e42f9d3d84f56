"""Collapse and perplexity of a model before and after fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..language import LanguageModel
from ..language.labels import IGNORE
from ..language.modes import eval_mode
from ..losses import cross_entropy_sums
from ..measure import measure
from ..reporting import read_report
from ..reporting.document import write_atomically
from ..sealed_file import dump_json, read_json
from ..training import Ranks, TrainingBatches
from ..training.loss_check import check_loss
from .settings import FinetuneSettings

HELD_OUT_TOKENS = 50_000
PERPLEXITY = "ncfast-perplexity/1"


def evaluate(
    model: LanguageModel,
    texts: Sequence[str],
    held_out: TrainingBatches | None,
    folder: Path,
    settings: FinetuneSettings,
    block_size: int,
    resume: bool,
    force: bool,
) -> dict[str, Any]:
    """Measure collapse and perplexity of the model as it is; read what was measured before.

    Return ``report`` and ``perplexity``; nothing on ranks other than the first. ``before`` is kept
    when a run is resumed.
    """
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
            text_column=settings.text_column,
            block_size=block_size,
            out=folder,
            resume=resume,
            force=force or folder.name == "after",
            progress=settings.progress,
            seed=settings.seed,
        ).report
    value = math.nan if held_out is None else perplexity_of_run(model, held_out, settings)
    folder.mkdir(parents=True, exist_ok=True)
    kept_value = value if math.isfinite(value) else None if math.isnan(value) else str(value)
    write_atomically(marker, dump_json({"schema": PERPLEXITY, "perplexity": kept_value}))
    return {"report": report, "perplexity": value}


def _read_perplexity(path: Path) -> float:
    """Read a perplexity back; a damaged file raises ``DataError`` with its name."""
    value = read_json(path, PERPLEXITY).get("perplexity")
    return math.nan if value is None else float(value)


def perplexity_of_run(
    model: LanguageModel, held_out: TrainingBatches, settings: FinetuneSettings
) -> float:
    """Return :func:`perplexity` as a run with these settings has it, of its model or another one.

    In the run's precision; a text that was asked for by name is read to its end.
    """
    most = None if settings.validation else HELD_OUT_TOKENS
    return perplexity(model, held_out, settings.precision, most)


@torch.no_grad()
def perplexity(
    model: LanguageModel,
    batches: TrainingBatches,
    precision: str = "fp32",
    max_tokens: int | None = HELD_OUT_TOKENS,
) -> float:
    """Return exp of the mean negative log-likelihood of the predicted tokens of one epoch.

    It is evaluated in eval mode, with the masks of the first epoch: of a masked model, over its
    masked positions (pseudo-perplexity). ``"bf16"`` computes features under autocast, as such a run
    trains. It stops after the batch with which ``max_tokens`` are read; None reads all.
    """
    total, count, read = 0.0, 0, 0
    with eval_mode(model.model):
        for number, batch in enumerate(batches):
            if number == 0:
                check_loss(model, batch.input_ids, batch.attention_mask, batch.labels, "evaluation")
            with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bf16"):
                features = model.features(
                    batch.input_ids.to(model.device), batch.attention_mask.to(model.device)
                )
            kept = batch.labels != IGNORE
            x, weight, bias = model.scaled(features[kept.to(features.device)])
            sums = cross_entropy_sums(
                x,
                weight,
                batch.labels[kept].to(features.device),
                linear_bias=bias,
                softcap=model.softcap,
                check_finite=True,
            )
            total, count = total + float(sums.nll), count + int(sums.tokens)
            read += batch.tokens
            if max_tokens is not None and read >= max_tokens:
                break
    return math.exp(total / count) if count else math.nan
