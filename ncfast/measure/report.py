"""From a finished pass to the report document: model, text, settings, times and every set."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import torch

from .. import __version__
from ..reporting import SCHEMA, strict
from ..reporting.document_sets import SetDescription, build_sets
from .heldout import HeldOutText
from .metrics import MetricsPlan, SetResult
from .one_pass import Counters, MeasurePass
from .sets import PlannedSet


def build_report(
    run: MeasurePass,
    sets: Mapping[str, PlannedSet],
    plan: MetricsPlan,
    results: Mapping[str, SetResult],
    held_out: HeldOutText | None,
    settings: Mapping[str, Any],
    texts: Sequence[str],
    command: str | None,
) -> dict[str, Any]:
    """Build the report document of a finished pass, in strict JSON values.

    ``texts`` are as the user gave them; ``settings`` is what the report states as settings.
    """
    model, corpus, counters = run.model, run.corpus, run.counters
    inner = model.model
    return strict(
        {
            "schema": SCHEMA,
            "created": datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds"),
            "command": command,
            "versions": _versions(),
            "model": {
                "name": model.name,
                "kind": model.kind,
                "architecture": type(inner).__name__,
                "hidden_size": model.hidden_size,
                "vocab_size": model.vocab_size,
                "tied": model.tied,
                "bias": model.head_bias is not None,
                "softcap": model.softcap,
                "parameters": sum(p.numel() for p in inner.parameters()),
                "notes": list(model.notes),
            },
            "text": {
                "sources": [str(text) for text in texts],
                "documents": corpus.documents,
                "tokens": corpus.tokens,
                "unknown_tokens": corpus.unknown_tokens,
                "fingerprint": corpus.fingerprint,
                "dropped": corpus.dropped,
                "notes": list(corpus.notes),
            },
            "settings": dict(settings),
            "tokens": {"kept": counters.kept, "dropped": counters.dropped},
            "timing": _timing(counters, plan, held_out),
            "sets": _sections(run, sets, results),
            "bootstrap": plan.describe(sets),
            "held_out": held_out.describe() if held_out else None,
            "reference": None,
            "notes": [],
        }
    )


def _versions() -> dict[str, str]:
    import transformers

    return {
        "ncfast": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def _timing(
    counters: Counters, plan: MetricsPlan, held_out: HeldOutText | None
) -> dict[str, float | None]:
    share = counters.statistics_seconds / (counters.forward_seconds or math.nan)
    return {
        "seconds": counters.seconds,
        "tokens": counters.tokens,
        "tokens_per_second": counters.tokens / (counters.seconds or math.nan),
        "forward_seconds": counters.forward_seconds,
        "statistics_seconds": counters.statistics_seconds,
        "statistics_share": share,
        "saving_seconds": counters.saving_seconds,
        "metrics_seconds": plan.seconds,
        "bootstrap_seconds": plan.bootstrap_seconds,
        "held_out_seconds": held_out.seconds if held_out else None,
    }


def _sections(
    run: MeasurePass, sets: Mapping[str, PlannedSet], results: Mapping[str, SetResult]
) -> dict[str, Any]:
    model, corpus = run.model, run.corpus
    occurrences = (corpus.token_counts(model.vocab_size) * run.mask_passes).tolist()
    descriptions: dict[str, SetDescription] = {}
    for name in results:
        planned = sets.get(name)
        ids = range(model.vocab_size) if planned is None else planned.ids.tolist()
        counted = {i: occurrences[i] for i in ids if occurrences[i]}
        if planned is None:
            descriptions[name] = SetDescription("vocabulary", model.vocab_size, occurrences=counted)
        else:
            descriptions[name] = planned.describe(counted)
    listed = {i for planned in sets.values() for i in planned.ids.tolist()}
    return build_sets(results, descriptions, spellings(model.tokenizer, sorted(listed)))


def spellings(tokenizer: Any, ids: Sequence[int]) -> dict[int, str]:
    """Spell word pieces for people: byte-level pieces decoded, their space shown."""
    names = {}
    for class_id, piece in zip(ids, tokenizer.convert_ids_to_tokens(list(ids)), strict=True):
        names[class_id] = str(piece)
        if not str(piece).isascii():
            letters = tokenizer.decode([class_id]).strip()
            space = "␣" if str(piece)[0] in "\u0120\u2581" else ""
            names[class_id] = space + letters if letters else str(piece)
    return names
