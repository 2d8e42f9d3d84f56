"""neural_collapse(): every metric that statistics and a head give."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..arrays import as_tensor
from ..device_errors import check_device_errors
from ..presets import preset as _preset
from ..statistics import ClassStatistics
from .by_class import duality, norms, orthogonality, variability
from .by_gram import algebra
from .by_pair import pairs_of_means, pairs_of_rows
from .drawing import DRAWN_LEAST
from .measured import Measured
from .pairs import Plan
from .report import NCReport, Values
from .selection import center_of, check_head, per_class, selected_slots

__all__ = ["KEYS", "neural_collapse"]

KEYS = (
    "tokens",
    "classes",
    "cdnv_mean",
    "cdnv_std",
    "cdnv2_mean",
    "cdnv2_std",
    "nc1_pinv",
    "nc1_quotient",
    "nc1_svd",
    "trace_within",
    "trace_between",
    "norm_mean",
    "norm_cov",
    "log_norm_std",
    "interference_mean",
    "interference_std",
    "equiangularity",
    "etf_error",
    "log_distance_mean",
    "log_distance_std",
    "nc3_mean",
    "nc3_distance",
    "self_duality_error",
    "unc3_std",
    "unc3_var",
    "unc3_cov",
    "nc4_agreement",
    "nc1w_mean",
    "nc1w2_mean",
    "gnc2w_mean",
    "gnc2w_unit_mean",
    "nc5_mean",
)


def neural_collapse(
    stats: ClassStatistics,
    head_weight: Tensor | None = None,
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

    With K classes, class means :math:`\mu_c` from :math:`n_c` of N tokens, center
    :math:`\bar\mu`, :math:`m_c = \mu_c - \bar\mu`, variances
    :math:`\sigma_c^2 = \frac{1}{n_c} \sum_{i: y_i = c} \|x_i - \mu_c\|^2`, head rows :math:`w_c`,
    hats for unit length, pairs :math:`c < c'`, :math:`s_c = \langle \hat w_c, \hat m_c \rangle`:

    =====================  =============================================================
    cdnv_mean, _std        over pairs of :math:`(\sigma_c^2 + \sigma_{c'}^2) / (2 d^{2p})`,
                           :math:`d = \|\mu_c - \mu_{c'}\|`; p = 1 unless the preset says 2
    cdnv2_mean, _std       the same at p = 2
    nc1_pinv               :math:`\mathrm{tr}(\Sigma_B^+ \Sigma_W) / K`,
                           :math:`\Sigma_W = \frac1N \sum_i (x_i - \mu_{y_i}) (\cdot)^\top`,
                           :math:`\Sigma_B = \frac1K \sum_c m_c m_c^\top`
    nc1_svd                the same with the K - 1 largest eigenvalues of :math:`\Sigma_B`
    nc1_quotient           trace_within / trace_between
    trace_within           :math:`\mathrm{tr}\, \Sigma_W`
    trace_between          :math:`\mathrm{tr}\, \Sigma_B`
    norm_mean, _cov        mean; population std over mean, of :math:`\|m_c\|` (the preset
                           chooses plain, squared or log)
    log_norm_std           Bessel std of :math:`\log \|m_c\|`
    interference_mean,     over pairs of :math:`\langle \hat m_c, \hat m_{c'} \rangle`;
    _std                   a simplex has -1/(K-1) and 0
    equiangularity         mean of :math:`|\langle \hat m_c, \hat m_{c'} \rangle + 1/(K-1)|`
    etf_error              :func:`ncfast.geometry.simplex_error` of
                           :math:`\langle m_c, m_{c'} \rangle`
    log_distance_mean,     GNC2: over pairs of :math:`-\log \|\hat m_c - \hat m_{c'}\|`
    _std                   (:math:`\hat \mu` where the preset does not center)
    nc3_mean               mean of :math:`s_c`; 1 when collapsed
    nc3_distance           mean of :math:`\|\hat w_c - \hat m_c\| = \sqrt{2 - 2 s_c}`
    self_duality_error     the simplex error of :math:`\langle w_c, m_{c'} \rangle`
    unc3_std, _var, _cov   Bessel std and variance of :math:`s_c`; population std over mean
    nc4_agreement          of ``agreement``, if given
    nc1w_mean, nc1w2_mean  calibrated NC1: cdnv with :math:`d = \|w_c - w_{c'}\|`, p = 1 and 2
    gnc2w_mean             calibrated GNC2: mean of :math:`-\log \|w_c - w_{c'}\|`
    gnc2w_unit_mean        the same of :math:`\hat w_c`
    nc5_mean               mean of :math:`|\langle \hat m_c, \hat o \rangle|`, o = ``ood_mean``
    =====================  =============================================================

    Every ``_std`` over pairs is Bessel-corrected. Pairs are visited once for the means and once for
    the head rows (once more for the means where the preset does not center log distances); nothing
    of size K x K is stored. Coincident pairs have no cdnv and no log distance: they are left out
    and counted in ``notes``.

    Args:
        stats: what was seen.
        head_weight: [V, D] float, the head's rows, of torch or NumPy; None leaves the keys that
            need it undefined.
        classes: ids to measure; None measures every class that occurred. Ids that did not occur
            are left out.
        center: ``"classes"``: mean of the selected class means; ``"tokens"``: the same weighted by
            counts; ``"all"``: mean over every class that occurred, even when ``classes`` selects
            some; ``"none"``: zero.
        preset: conventions of a source, see :mod:`ncfast.presets`.
        pairs: how many pairs to draw, uniformly with replacement, for the keys of pairs; for very
            large K. They become estimates with ``report.standard_errors`` and
            ``report.intervals``. None visits every pair, and so does a number that is no less than
            there are. Keys from Gram matrices (interference_*, etf_error) stay exact.
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
    conventions = _preset(preset)
    check_device_errors()
    slots = selected_slots(stats, classes)
    middle = center_of(stats, slots, center)
    if head_weight is not None:
        head_weight = check_head(stats, head_weight)
    plan = _plan(slots.numel(), pairs, seed, histograms)
    columns = per_class(stats, slots, middle, head_weight)
    measured = Measured(stats, slots, middle, head_weight, columns, conventions)
    out = Values(measured.count, conventions.norms)
    out.put("tokens", float(columns["counts"].sum()))
    out.put("classes", float(measured.count))
    variability(out, measured)
    norms(out, measured)
    algebra(out, measured)
    duality(out, measured)
    distributions = pairs_of_means(out, measured, plan)
    pairs_of_rows(out, measured, plan)
    if ood_mean is not None:
        ood_mean = as_tensor("neural_collapse", "ood_mean", ood_mean)
        orthogonality(out, measured, ood_mean)
    if agreement is not None:
        share = agreement.compute(classes)
        unseen = "no token of these classes was seen" if math.isnan(share) else ""
        out.put("nc4_agreement", share, unseen)
    drawn = "all" if plan.drawn is None else f"{plan.drawn} drawn, seed {plan.seed}"
    return NCReport(
        {key: out.values[key] for key in KEYS if key in out.values},
        out.notes,
        columns,
        {"center": center, "preset": preset, "pairs": drawn},
        out.standard_errors,
        out.intervals,
        distributions,
    )


def _plan(count: int, pairs: int | None, seed: int, histograms: int) -> Plan:
    if histograms < 0:
        raise ValueError(f"neural_collapse: histograms is {histograms}; expected a number of bins")
    if pairs is not None and pairs < DRAWN_LEAST:
        raise ValueError(
            f"neural_collapse: pairs is {pairs}; expected at least {DRAWN_LEAST}, or None for all"
        )
    few = pairs is not None and pairs < count * (count - 1) // 2
    return Plan(histograms, pairs if few else None, seed)
