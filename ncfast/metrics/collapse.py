"""neural_collapse(): every metric that statistics and a head give."""

from __future__ import annotations

import math
import textwrap
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..arrays import as_tensor
from ..catalogue import KEYS, LETTERS, formulas
from ..device_errors import check_device_errors
from ..geometry import Rows
from ..presets import preset as _preset
from ..ranks import Ranks
from ..shards import VocabularyShard, digest_of_values, sharded_head, this_meeting
from ..statistics import ClassStatistics
from .by_class import duality, norms, orthogonality, variability
from .by_gram import algebra
from .by_pair import near_pairs_note, pairs_of_means, pairs_of_rows
from .measured import Measured
from .pair_functions import Plan
from .report import NCReport, Values
from .sampling import DRAWN_LEAST
from .selection import center_of, check_head, per_class, selected_slots
from .split_head import SplitHead, agree

__all__ = ["KEYS", "neural_collapse", "shared_collapse"]


@sharded_head("neural_collapse", "head_weight")
def neural_collapse(
    stats: ClassStatistics,
    head_weight: Tensor | VocabularyShard | None = None,
    classes: Any = None,
    center: str = "classes",
    preset: str = "ncfast",
    *,
    pairs: int | None = None,
    seed: int = 0,
    histograms: int = 0,
    ood_mean: Tensor | None = None,
    agreement: Any = None,
) -> NCReport:
    r"""Compute every neural-collapse metric of the classes that occurred.

    {letters}

    {formulas}

    Every ``_std`` over pairs is Bessel-corrected. Pairs are visited once for the means and once for
    the head rows (once more for the means where the preset does not center log distances); nothing
    of size K x K is stored. Pairs of means or of head rows that coincide, or differ by no more than
    their rounding (:mod:`ncfast.rounding`), have no cdnv and no log distance: they are left out and
    counted in ``notes``.

    Args:
        stats: what was seen.
        head_weight: [V, D] float, the head's rows, of torch or NumPy; None leaves the keys that
            need it undefined. Or the rows of several ranks, a DTensor with ``Shard(0)`` or a
            :class:`ncfast.VocabularyShard`, with the same statistics on each: every rank calls
            this and has the whole report. Of others' rows none holds more than a tile of each.
        classes: ids to measure; None measures every class that occurred. Ids that did not occur
            are left out.
        center: ``"classes"``: mean of the selected class means; ``"tokens"``: the same weighted by
            counts; ``"all"``: mean over every class that occurred, even when ``classes`` selects
            some; ``"none"``: zero.
        preset: conventions of a source, see :mod:`ncfast.presets`.
        pairs: how many pairs to draw, uniformly with replacement, for the keys of pairs; for very
            large K: all pairs of 16,384 classes cost what 300,000 drawn ones do
            (benchmarks/results/scaling.md). They become estimates with
            ``report.standard_errors`` and ``report.intervals``. None visits every
            pair, and so does a number that is no less than there are. Keys from
            Gram matrices (interference_*, etf_error) stay exact.
        seed: of that draw.
        histograms: bins of the distributions over pairs in ``report.distributions``; 0 for none.
        ood_mean: [D] float, the mean of out-of-distribution features as it is (not centered);
            adds ``nc5_mean``.
        agreement: a :class:`ncfast.NearestCenterAgreement` that has seen tokens; adds
            ``nc4_agreement`` for the labels among ``classes``.

    Returns:
        An :class:`NCReport`. Undefined values (fewer than two classes, a zero spread, no scatter of
        exactly these classes) are NaN with the reason in ``notes``. All sums in float64, pairs in
        the precision of the means; no gradients.

    Raises:
        ValueError: The shape of the head or of ``ood_mean``, ``center`` or ``preset`` is wrong.
        ncfast.DataError: A class id is out of range, not kept, or ``classes`` is empty; or
            ``center="all"`` is asked of a state that keeps a subset; or a GPU has met bad data
            since the last :func:`ncfast.check_device_errors`.

    Source: Papyan, Han and Donoho (2020); Linguistic Collapse (arXiv 2405.17767); Collapsed
    Language Models Promote Fairness (arXiv 2410.04472), section 3.2.2 for the calibrated metrics.

    >>> import torch
    >>> stats = ClassStatistics(2, 2)
    >>> stats.update(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))
    >>> report = neural_collapse(stats, head_weight=torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    >>> round(report["nc3_mean"], 6), report["trace_within"], round(report["etf_error"], 6)
    (1.0, 0.0, 0.0)
    """
    return shared_collapse(
        Ranks(),
        stats,
        head_weight,
        classes=classes,
        center=center,
        preset=preset,
        pairs=pairs,
        seed=seed,
        histograms=histograms,
        ood_mean=ood_mean,
        agreement=agreement,
    )


if neural_collapse.__doc__:  # not under python -OO
    neural_collapse.__doc__ = neural_collapse.__doc__.format(
        letters=textwrap.fill(LETTERS, 94, subsequent_indent="    "),
        formulas="::\n\n" + textwrap.indent(formulas(), " " * 8),
    )


def shared_collapse(
    ranks: Ranks,
    stats: ClassStatistics,
    head_weight: Tensor | VocabularyShard | None,
    classes: Any,
    center: str,
    preset: str,
    *,
    pairs: int | None = None,
    seed: int = 0,
    histograms: int = 0,
    ood_mean: Tensor | None = None,
    agreement: Any = None,
) -> NCReport:
    """Compute the report of :func:`neural_collapse`, whose arguments these are.

    ``ranks`` share the visits of pairs, inside their ``sharing_errors``; all are given the same and
    have the whole report.
    """
    check_device_errors()
    slots = selected_slots(stats, classes)
    if ood_mean is not None:
        ood_mean = as_tensor("neural_collapse", "ood_mean", ood_mean)
    other = None if ood_mean is None else digest_of_values(ood_mean.detach().flatten())
    options = (center, preset, pairs, seed, histograms, other, agreement is None)
    measured = _measured(stats, head_weight, slots, options)
    plan = replace(_plan(slots.numel(), pairs, seed, histograms), ranks=ranks)
    columns, conventions = measured.columns, measured.conventions
    out = Values(measured.count, conventions.norms)
    out.put("tokens", float(columns["counts"].sum()))
    out.put("classes", float(measured.count))
    for add in (variability, norms, algebra, duality):
        add(out, measured)
    distributions = pairs_of_means(out, measured, plan)
    pairs_of_rows(out, measured, plan)
    if ood_mean is not None:
        orthogonality(out, measured, ood_mean)
    if agreement is not None:
        share = agreement.compute(classes)
        unseen = "no token of these classes was seen" if math.isnan(share) else ""
        out.put("nc4_agreement", share, unseen, near_pairs_note(out.values["pairs_left_out"]))
    drawn = "all" if plan.drawn is None else f"{plan.drawn} drawn, seed {plan.seed}"
    return NCReport(
        {key: out.values[key] for key in KEYS if key in out.values},
        out.notes,
        columns,
        {"center": center, "preset": preset, "pairs": drawn},
        out.standard_errors,
        intervals=out.intervals,
        distributions=distributions,
    )


def _measured(
    stats: ClassStatistics,
    head_weight: Tensor | VocabularyShard | None,
    slots: Tensor,
    options: tuple[Any, ...],
) -> Measured:
    """Return what every metric reads; ``options``, center and preset first, are all ranks'."""
    center, preset = options[:2]
    conventions, center_row = _preset(preset), center_of(stats, slots, center)
    split = None
    if isinstance(head_weight, VocabularyShard):
        split = SplitHead(head_weight, this_meeting(), stats.class_ids[slots])
        agree(split.met, stats, head_weight, slots, options)
        head_weight = None
    elif head_weight is not None:
        head_weight = check_head(stats, head_weight)
    columns = per_class(stats, slots, center_row, head_weight)
    if split is not None:
        columns |= split.columns(Rows(stats.means, slots), center_row)
    measured = Measured(
        stats,
        slots,
        center_row,
        head_weight,
        columns,
        conventions=conventions,
        center_name=center,
        split_head=split,
    )
    if "cosines" in columns:
        columns["cosines"] = columns["cosines"].masked_fill(measured.at_center, 0.0)
    return measured


def _plan(count: int, pairs: int | None, seed: int, histograms: int) -> Plan:
    if histograms < 0:
        raise ValueError(f"neural_collapse: histograms is {histograms}; expected a number of bins")
    if pairs is not None and pairs < DRAWN_LEAST:
        raise ValueError(
            f"neural_collapse: pairs is {pairs}; expected at least {DRAWN_LEAST}, or None for all"
        )
    few = pairs is not None and pairs < count * (count - 1) // 2
    return Plan(histograms, pairs if few else None, seed)
