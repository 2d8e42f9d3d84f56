"""From model and text to the folder of the report: check, draw the sets, pass, measure, write."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .. import durable_file
from ..errors import DataError
from ..language import LanguageError, LanguageModel
from ..ranks import PeerLost, Ranks, SaidByAnother
from ..reporting import write_report
from ..reporting.reference import overlay, read_reference
from ..running.identity import differences
from ..running.options import listed, with_options
from ..statistics import ClassStatistics
from .counters import Counters
from .identity import LOOSE_SETTINGS, STATE_FILE, digest, identify, prepare_folder
from .inputs import Inputs, described_settings, read_inputs
from .layers import remove_states
from .metrics import MetricsPlan, SetResult
from .one_pass import MeasureInterrupted, MeasurePass
from .report import build_report, spellings
from .sets import PlannedSet
from .settings import MeasureSettings
from .state import load_state
from .vocabulary import write_vocabulary


@dataclass
class MeasureResult:
    """Hold what a measurement found."""

    report: dict[str, Any]  # the report document, see ``ncfast.reporting.document``
    stats: ClassStatistics  # the statistics of the whole vocabulary
    path: Path | None  # the folder with report and statistics; None if nothing was written


@durable_file.releases_claims
def measure(
    model: str | LanguageModel,
    texts: str | Sequence[str],
    settings: MeasureSettings | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    force: bool = False,
    command: str | None = None,
    ranks: Ranks | None = None,
    **options: Any,
) -> MeasureResult:
    """Measure neural collapse of a language model over a text, in one pass (NC4 in a second).

    Args:
        model: a demo, hub name, folder or ``pypi:`` spec, or a loaded ``LanguageModel``.
        texts: one or more texts: files, folders, ``demo:text``, data sets.
        settings: everything else; None takes the defaults.
        out: folder for report and statistics; None writes nothing.
        resume: go on from the statistics saved in ``out``; start anew if there are none.
        force: overwrite what ``out`` holds.
        command: the command line to name in the report.
        ranks: the processes that share every batch, each of which calls this with the same
            arguments; None for this one alone, whatever process group there is.
        options: fields of :class:`MeasureSettings` by name, in the place of those in ``settings``:
            ``measure(model, texts, words=["gender"], seed=1)``.

    Returns:
        Report, statistics and folder; on ranks other than the first an empty report, as all share
        the metrics and that one alone writes and shows anything.

    Raises:
        LanguageError: model, text or word sets cannot be used.
        ValueError: settings make no sense, features are not finite, or ``out`` holds something
            else (the message names it).
        TypeError: there is no setting of that name.
        OSError: ``out`` cannot be written; what it held is untouched.
        MeasureInterrupted: Ctrl-C; the state was saved first.
        PeerLost: another rank has ended.

    >>> found = measure("my-model", "notes.txt", controls="", progress=False)
    >>> list(found.report["sets"]), found.stats.num_classes
    (['vocabulary', 'gender'], 67)
    """
    ranks = ranks or Ranks()
    with ranks.sharing_errors():
        settings = with_options("measure", MeasureSettings, settings, options)
        settings = replace(settings, progress=settings.progress and ranks.rank == 0)
        texts, folder = listed(texts), None if out is None else Path(out)
        _check(settings, folder, resume, ranks)
        if settings.tensor_parallel > 1:
            ranks = replace(ranks, same_rows=True)
        inputs = read_inputs(model, texts, settings)
    # What ranks do together may not stand behind what can fail on one of them alone.
    with ranks.sharing_errors():
        described = described_settings(inputs, settings) | {"processes": ranks.size}
        run = _begun(inputs, settings, described, folder, resume, force=force, ranks=ranks)
    if ranks.size > 1:
        told = {k: v for k, v in described.items() if k not in LOOSE_SETTINGS}
        told = dict(run.identity) | told | {"saved": folder is not None}
        run = replace(run, counters=_same_everywhere(run, told))
    run.run()
    agreements = _agreements(inputs, settings, run)
    plan, results, by_layer = _metrics(inputs, settings, run, agreements)
    if ranks.rank:
        return MeasureResult({}, run.stats, None)
    report = build_report(
        run,
        inputs.sets,
        plan,
        results,
        inputs.held_out,
        settings=described,
        texts=texts,
        command=command,
    )
    if by_layer is not None:
        report["layers"] = by_layer
    if settings.reference:
        report["reference"] = overlay(settings.reference, ["vocabulary"], [report])
    if folder is not None:
        classes = results["vocabulary"].per_class
        words_of = spellings(inputs.model.tokenizer, classes["class_ids"].tolist())
        write_vocabulary(folder, classes, words_of)
        write_report(report, folder)
    return MeasureResult(report, run.stats, folder)


def _check(settings: MeasureSettings, folder: Path | None, resume: bool, ranks: Ranks) -> None:
    """Reject what could not be used after the pass."""
    if folder is not None:
        durable_file.require_folder(folder)
    elif resume:
        raise LanguageError(
            "resume=True without out; expected the folder that holds the statistics"
        )
    if settings.tensor_parallel not in (1, ranks.size):
        raise LanguageError(
            f"tensor_parallel={settings.tensor_parallel} with {ranks.size} ranks; expected as many"
        )
    if settings.reference:
        read_reference(settings.reference, settings.definitions)


def _begun(
    inputs: Inputs,
    settings: MeasureSettings,
    described: Mapping[str, Any],
    folder: Path | None,
    resume: bool,
    force: bool,
    ranks: Ranks,
) -> MeasurePass:
    """Return the pass, at its start or where an earlier run of it stopped."""
    model, layers = inputs.model, inputs.layers
    if layers is not None and settings.progress:
        print(layers.memory(), file=sys.stderr)
    identity = identify(model, inputs.corpus, inputs.labeller, inputs.sets, described)
    state = None if folder is None else folder / STATE_FILE
    counters, stats = Counters(), None
    if folder is not None and state is not None and ranks.rank == 0:
        prepare_folder(folder, resume, force, described, identity)
        if resume and state.exists():
            stats, counters = load_state(state, identity, model.device)
        if layers is None and not resume:
            remove_states(folder)
    if layers is not None:
        layers.identity = digest(identity)
        if folder is not None and stats is not None:  # on the first rank
            layers.load(folder, counters.position)
    return MeasurePass(
        model,
        inputs.corpus,
        inputs.labeller,
        stats or _new_statistics(model, inputs.sets),
        identity,
        batch_size=settings.batch_size,
        mask_passes=settings.mask_passes,
        state_path=state,
        save_every_seconds=settings.save_every_seconds,
        progress=settings.progress,
        counters=counters,
        layers=layers,
        ranks=ranks,
    )


def _same_everywhere(run: MeasurePass, told: Mapping[str, Any]) -> Counters:
    """Return where the first rank stands, or raise where another measures something else."""
    ranks = run.ranks
    (first, position), *others = ranks.gather((dict(told), run.counters))
    for rank, (found, _) in enumerate(others, 1):
        if different := differences(found, first):
            said = f"rank {rank} of {ranks.size} measures something else: {'; '.join(different)}"
            said += "; expected the same model, text and settings on every rank"
            raise DataError(said) if ranks.rank == 0 else SaidByAnother(said)
    return position


def _agreements(inputs: Inputs, settings: MeasureSettings, run: MeasurePass) -> Mapping[str, float]:
    """Compare head and nearest class mean on held-out text, if there is any, on all ranks."""
    held_out, batch, progress = inputs.held_out, settings.batch_size, settings.progress
    if held_out is None:
        return {}
    given = (inputs.model, inputs.labeller, run.stats, inputs.sets, batch, progress, run.ranks)
    with _interruptible(run):
        return held_out.measure(*given)


@contextmanager
def _interruptible(run: MeasurePass) -> Iterator[None]:
    """Say of Ctrl-C that the pass is saved."""
    try:
        yield
    except MeasureInterrupted:
        raise
    except KeyboardInterrupt:
        raise MeasureInterrupted(run.total, run.total, run.state_path) from None
    except PeerLost as error:
        raise PeerLost(f"{error}; {run.way_on()}") from error


def _metrics(
    inputs: Inputs,
    settings: MeasureSettings,
    run: MeasurePass,
    agreements: Mapping[str, float],
) -> tuple[MetricsPlan, dict[str, SetResult], dict[str, Any] | None]:
    """Compute the metrics of every set, and of every layer; the state is saved by now."""
    sets, layers = inputs.sets, inputs.layers
    plan = MetricsPlan(
        run.stats,
        inputs.model.head_weight.detach(),
        settings.center,
        settings.preset,
        settings.pairs,
        repeats=settings.bootstrap,
        seed=settings.seed,
        progress=settings.progress,
        ranks=run.ranks,
    )
    with _interruptible(run):
        results = plan.run(sets, agreements)
        if layers is None:
            return plan, results, None
        return (
            plan,
            results,
            layers.describe(
                sets,
                settings.center,
                settings.preset,
                settings.pairs,
                settings.seed,
                ranks=run.ranks,
            ),
        )


def _new_statistics(model: LanguageModel, sets: Mapping[str, PlannedSet]) -> ClassStatistics:
    # Each set has its own within-class scatter: it cannot be taken out of a pooled one later.
    return ClassStatistics(
        num_classes=model.vocab_size,
        dim=model.hidden_size,
        scatter={"vocabulary": None, **{name: planned.ids for name, planned in sets.items()}},
        dtype=torch.float64 if model.head_weight.dtype == torch.float64 else torch.float32,
        device=model.device,
    )
