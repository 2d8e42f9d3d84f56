"""From model and text to the folder of the report: check, draw the sets, pass, measure, write."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch

from .. import durable_file
from ..language import Corpus, Labeller, LanguageError, LanguageModel, WordSet
from ..language.labels import LabelMode
from ..language.layers import parse_layers
from ..metrics import CENTERS
from ..metrics.drawing import DRAWN_LEAST
from ..presets import Preset
from ..presets import preset as find_preset
from ..reporting import write_report
from ..reporting.reference import overlay, read_reference
from ..statistics import ClassStatistics
from .heldout import HeldOutText
from .identity import STATE_FILE, digest, identify, prepare_folder
from .layers import LayerRun, remove_states
from .metrics import MetricsPlan
from .one_pass import Counters, MeasureInterrupted, MeasurePass, load_state
from .report import build_report, spellings
from .sets import PlannedSet, draw_sets
from .vocabulary import write_vocabulary

DEFAULT_BLOCK_SIZE = 128
MOST_DRAWS = 1_000_000


@dataclass
class MeasureResult:
    """Hold what a measurement found.

    Args:
        report: the report document, see ``ncfast.reporting.document``.
        stats: the statistics of the whole vocabulary.
        path: the folder with report and statistics; None if nothing was written.

    Example:
        >>> result.report["sets"]["gender"]["metrics"]["nc3_mean"]  # doctest: +SKIP
        0.31
    """

    report: dict[str, Any]
    stats: ClassStatistics
    path: Path | None


def measure(
    model: str | LanguageModel,
    texts: str | Sequence[str],
    words: Sequence[str | WordSet] = ("gender",),
    controls: str = "random:5,matched",
    max_tokens: int | None = None,
    batch_size: int = 32,
    block_size: int | None = None,
    labels: Literal["next", "self", "masked"] | None = None,
    mask_passes: int = 1,
    mask_rate: float = 0.15,
    policy: Literal["single", "first", "last"] | None = None,
    center: Literal["classes", "tokens", "all", "none"] = "classes",
    preset: str = "ncfast",
    pairs: int | None = None,
    bootstrap: int = 200,
    nc4: str | Sequence[str] = (),
    nc4_max_tokens: int | None = None,
    text_column: str | None = None,
    reference: str | os.PathLike[str] | None = None,
    layers: str | Sequence[int] | None = None,
    layers_head: Literal["lens", "none"] = "lens",
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    force: bool = False,
    save_every_seconds: float = 60.0,
    progress: bool = True,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    command: str | None = None,
) -> MeasureResult:
    """Measure neural collapse of a language model over a text, in one pass (NC4 in a second).

    Args:
        model: a demo, hub name, folder or ``pypi:`` spec, or a loaded ``LanguageModel``.
        texts: one or more texts: files, folders, ``demo:text``, data sets.
        words: named word sets or files, measured beside the whole vocabulary.
        controls: control sets for each word set, ``random:COUNT`` and ``matched``.
        max_tokens: stop after this many tokens of text.
        batch_size: blocks in a batch.
        block_size: tokens in a block; default 128, or fewer where the model takes fewer.
        labels: the class of a position; default by kind of model (and by preset "official").
        mask_passes: how often the text is read under ``labels="masked"``, each time with other
            random masks.
        mask_rate: share of ordinary tokens masked at random.
        policy: what to do with words of several pieces; default "single" (preset "official":
            "first").
        center: what class means are centred on.
        preset: the definitions to follow.
        pairs: how many pairs of classes to draw in sets that have more, each value with its
            standard error; None visits every pair.
        bootstrap: draws of the classes behind the intervals of word sets and matched controls;
            0 makes none.
        nc4: held-out texts; a second pass over them measures how often the head and the nearest
            class mean choose the same word.
        nc4_max_tokens: stop the second pass after this many tokens.
        text_column: column that holds the text, in texts with several; None takes ``text``, or the
            only one of text.
        reference: a CSV of published measurements to lay beside the vocabulary's.
        layers: layers to measure in the same pass, ``"all"`` or their numbers, 0 the embeddings;
            None measures what enters the head alone.
        layers_head: ``"lens"`` lays the head's rows beside every layer, each sent through the
            model's final norm where it has one; ``"none"`` takes the layers as they are.
        out: folder for report and statistics; None writes nothing.
        resume: go on from the statistics saved in ``out``; start anew if there are none.
        force: overwrite what ``out`` holds.
        save_every_seconds: how often to save.
        progress: show bars on stderr.
        device: where to run; ignored for a loaded model.
        dtype: of the model's weights; ignored for a loaded model.
        seed: of masks and controls.
        command: the command line to name in the report.

    Returns:
        Report, statistics and folder.

    Raises:
        LanguageError: model, text or word sets cannot be used.
        ValueError: settings make no sense, features are not finite, or ``out`` holds something
            else (the message names it).
        OSError: ``out`` cannot be written; what it held is untouched.
        MeasureInterrupted: Ctrl-C; the state was saved first.

    Example:
        >>> measure("demo:bert-tiny", "demo:text", max_tokens=20_000)  # doctest: +SKIP
    """
    texts = [texts] if isinstance(texts, (str, os.PathLike)) else list(texts)
    nc4 = [nc4] if isinstance(nc4, (str, os.PathLike)) else list(nc4)
    conventions = find_preset(preset)
    mode = labels or cast("LabelMode | None", conventions.labels)
    pieces = policy or conventions.word_policy
    _check(batch_size, mask_passes, save_every_seconds, center, out, resume)
    _check_metrics(pairs, bootstrap, nc4, nc4_max_tokens)
    if isinstance(layers, str):
        layers = parse_layers(layers)
    if out is not None:
        durable_file.require_folder(out)
    if reference:  # found unusable now, not after the pass
        read_reference(reference, _definitions(center, conventions))
    if not isinstance(model, LanguageModel):
        model = LanguageModel.load(model, device=device, dtype=dtype, progress=progress)
    block_size = _block_size(block_size, model)
    corpus = Corpus.from_spec(
        texts,
        model.tokenizer,
        max_tokens=max_tokens,
        block_size=block_size,
        text_column=text_column,
        progress=progress,
    )
    held_out = None
    if nc4:
        bias = conventions.nc4_bias
        held_out = HeldOutText.read(nc4, model, corpus, nc4_max_tokens, bias, progress, text_column)
    sets = draw_sets(model, corpus, words, controls, pieces, seed)
    named = {class_id for planned in sets.values() for class_id in planned.ids.tolist()}
    labeller = Labeller(model, mode, named, mask_rate, seed, conventions.special_labels)
    if mask_passes > 1 and labeller.mode != "masked":
        raise LanguageError(
            f"mask_passes={mask_passes} with labels={labeller.mode!r}, where every pass would be "
            "the same; wanted labels='masked' or one pass"
        )
    weight_dtype = str(model.head_weight.dtype).removeprefix("torch.")
    settings = {
        "labels": labeller.mode,
        "mask_passes": mask_passes,
        "mask_rate": labeller.settings["mask_rate"],
        "special_labels": labeller.settings["special_labels"],
        **_definitions(center, conventions),
        "preset": preset,
        "policy": pieces,
        "controls": controls,
        "words": [s.name for s in sets.values() if s.kind == "words"],
        "feature_point": model.feature_point,
        "dtype": weight_dtype,
        "batch_size": batch_size,
        "block_size": block_size,
        "max_tokens": max_tokens,
        "text_column": text_column,
        "pairs": pairs,
        "bootstrap": bootstrap,
        "nc4": held_out.corpus.fingerprint if held_out else None,
        "seed": seed,
        "device": str(model.device),
        "threads": torch.get_num_threads(),
    }
    layer_run = None
    if layers is not None:
        layer_run = LayerRun(model, corpus, layers, layers_head, batch_size)
        settings |= layer_run.settings
        if progress:
            print(layer_run.memory(), file=sys.stderr)
    identity = identify(model, corpus, labeller, sets, settings)
    folder = Path(out) if out is not None else None
    state = folder / STATE_FILE if folder is not None else None
    counters, stats = Counters(), None
    if folder is not None and state is not None:
        prepare_folder(folder, resume, force, settings, identity)
        if resume and state.exists():
            stats, counters = load_state(state, identity, model.device)
        if layer_run is None and not resume:
            remove_states(folder)
    if layer_run is not None:
        layer_run.identity = digest(identity)
        if folder is not None and stats is not None:
            layer_run.load(folder, counters.position)
    if stats is None:
        stats = _new_statistics(model, sets)
    run = MeasurePass(
        model,
        corpus,
        labeller,
        stats,
        identity,
        batch_size,
        mask_passes,
        state,
        save_every_seconds,
        progress,
        counters,
        layer_run,
    )
    run.run()
    weight = model.head_weight.detach()
    plan = MetricsPlan(stats, weight, center, preset, pairs, bootstrap, seed, progress)
    agreements = {}
    try:
        if held_out:
            agreements = held_out.measure(model, labeller, stats, sets, batch_size, progress)
        results = plan.run(sets, agreements)
        by_layer = layer_run.describe(sets, center, preset, pairs, seed) if layer_run else None
    except MeasureInterrupted:
        raise
    except KeyboardInterrupt:
        raise MeasureInterrupted(run.total, run.total, state) from None
    report = build_report(run, sets, plan, results, held_out, settings, texts, command)
    if by_layer is not None:
        report["layers"] = by_layer
    if reference:
        report["reference"] = overlay(reference, ["vocabulary"], [report])
    if folder is not None:
        classes = results["vocabulary"].per_class
        words_of = spellings(model.tokenizer, classes["class_ids"].tolist())
        write_vocabulary(folder, classes, words_of)
        write_report(report, folder)
    return MeasureResult(report, stats, folder)


def _check(
    batch_size: int, mask_passes: int, save_every: float, center: str, out: object, resume: bool
) -> None:
    for name, value in (("batch_size", batch_size), ("mask_passes", mask_passes)):
        if value < 1:
            raise LanguageError(f"{name}={value}; wanted at least 1")
    if not save_every >= 0:
        raise LanguageError(f"save_every_seconds={save_every}; wanted 0 or more")
    if center not in CENTERS:
        raise LanguageError(f"center is {center!r}; wanted one of {', '.join(CENTERS)}")
    if resume and out is None:
        raise LanguageError("resume=True without out; wanted the folder that holds the statistics")


def _check_metrics(
    pairs: int | None, bootstrap: int, nc4: Sequence[str], nc4_max_tokens: int | None
) -> None:
    if pairs is not None and pairs < DRAWN_LEAST:
        raise LanguageError(f"pairs={pairs}; wanted at least {DRAWN_LEAST}, or None for every pair")
    if bootstrap > MOST_DRAWS:
        raise LanguageError(f"bootstrap={bootstrap}; expected at most {MOST_DRAWS:,} draws")
    if bootstrap < 0 or bootstrap == 1:
        raise LanguageError(f"bootstrap={bootstrap}; wanted at least 2 draws, or 0 for none")
    if nc4_max_tokens is not None and not nc4:
        raise LanguageError("nc4_max_tokens without nc4; wanted a held-out text")


def _definitions(center: str, conventions: Preset) -> dict[str, Any]:
    """Say what decides the meaning of the keys, so that two reports can be compared."""
    chosen = ("norms", "log_distance_centered", "cdnv_power", "nc4_bias")
    return {"center": center, "definitions": {key: getattr(conventions, key) for key in chosen}}


def _block_size(wanted: int | None, model: LanguageModel) -> int:
    limit = model.max_positions
    if wanted is None:
        return DEFAULT_BLOCK_SIZE if limit is None else min(DEFAULT_BLOCK_SIZE, limit)
    if limit is not None and wanted > limit:
        raise LanguageError(f"block_size={wanted}; {model.name} takes at most {limit} positions")
    return wanted


def _new_statistics(model: LanguageModel, sets: Mapping[str, PlannedSet]) -> ClassStatistics:
    # Each set has its own within-class scatter: it cannot be taken out of a pooled one later.
    return ClassStatistics(
        num_classes=model.vocab_size,
        dim=model.hidden_size,
        scatter={"vocabulary": None, **{name: planned.ids for name, planned in sets.items()}},
        dtype=torch.float64 if model.head_weight.dtype == torch.float64 else torch.float32,
        device=model.device,
    )
