"""What a measurement reads and draws before the pass: model, texts, sets, labels, layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from ..language import Corpus, Labeller, LanguageError, LanguageModel
from ..language.labels import LabelMode
from ..language.layers import parse_layers
from ..language.packing import block_size_of
from ..running.options import listed
from .heldout import HeldOutText
from .layers import LayerRun
from .sets import PlannedSet, draw_sets
from .settings import MeasureSettings


@dataclass
class Inputs:
    """Hold what is read and drawn before the pass."""

    model: LanguageModel
    corpus: Corpus
    held_out: HeldOutText | None
    sets: dict[str, PlannedSet]
    labeller: Labeller
    layers: LayerRun | None


def read_inputs(
    model: str | LanguageModel, texts: Sequence[str], settings: MeasureSettings
) -> Inputs:
    """Load the model, read the texts and draw the sets."""
    layers = settings.layers
    if isinstance(layers, str):
        layers = parse_layers(layers)
    progress, conventions = settings.progress, settings.conventions
    if not isinstance(model, LanguageModel):
        model = LanguageModel.load(
            model,
            settings.device,
            settings.dtype,
            progress=progress,
            device_map=settings.device_map,
            tensor_parallel=settings.tensor_parallel,
        )
    corpus = Corpus.from_spec(
        texts,
        model.tokenizer,
        max_tokens=settings.max_tokens,
        block_size=block_size_of(model, settings.block_size),
        text_column=settings.text_column,
        progress=progress,
    )
    held_out = None
    if nc4 := listed(settings.nc4):
        most, bias = settings.nc4_max_tokens, conventions.nc4_bias
        column = settings.text_column
        held_out = HeldOutText.read(
            nc4, model, corpus, most, bias, progress=progress, text_column=column
        )
    seed = settings.seed
    sets = draw_sets(model, corpus, settings.words, settings.controls, settings.pieces, seed=seed)
    named = {class_id for planned in sets.values() for class_id in planned.ids.tolist()}
    mode = settings.labels or cast("LabelMode | None", conventions.labels)
    special = conventions.special_labels
    labeller = Labeller(model, mode, named, settings.mask_rate, seed, special_labels=special)
    if settings.mask_rate != MeasureSettings.mask_rate and labeller.mode != "masked":
        raise LanguageError(
            f"mask_rate={settings.mask_rate} with labels={labeller.mode!r}, which mask nothing; "
            "expected labels='masked', or no mask rate"
        )
    if settings.mask_passes > 1 and labeller.mode != "masked":
        raise LanguageError(
            f"mask_passes={settings.mask_passes} with labels={labeller.mode!r}, where every pass "
            "would be the same; expected labels='masked' or one pass"
        )
    layer_run = None
    if layers is not None:
        layer_run = LayerRun(model, corpus, layers, settings.layers_head, settings.batch_size)
    return Inputs(model, corpus, held_out, sets, labeller, layers=layer_run)


def described_settings(inputs: Inputs, settings: MeasureSettings) -> dict[str, Any]:
    """Return what the report states as settings."""
    model, labeller, held_out = inputs.model, inputs.labeller, inputs.held_out
    described = {
        "labels": labeller.mode,
        "mask_passes": settings.mask_passes,
        "mask_rate": labeller.settings["mask_rate"],
        "special_labels": labeller.settings["special_labels"],
        **settings.definitions,
        "preset": settings.preset,
        "policy": settings.pieces,
        "controls": settings.controls,
        "words": [s.name for s in inputs.sets.values() if s.kind == "words"],
        "feature_point": model.feature_point,
        "dtype": str(model.head_weight.dtype).removeprefix("torch."),
        "batch_size": settings.batch_size,
        "block_size": block_size_of(model, settings.block_size),
        "max_tokens": settings.max_tokens,
        "text_column": settings.text_column,
        "pairs": settings.pairs,
        "bootstrap": settings.bootstrap,
        "nc4": held_out.corpus.fingerprint if held_out else None,
        "seed": settings.seed,
        "device": str(model.device),
        "device_map": settings.device_map,
        "tensor_parallel": settings.tensor_parallel,
        "threads": torch.get_num_threads(),
    }
    return described | (inputs.layers.settings if inputs.layers else {})
