"""The catalogue's metrics of class means: sizes, NC1 and NC2, in the order of every table."""

from __future__ import annotations

import math

from .metric import LOWER, Metric, Published
from .range import ANY, INFINITE, POSITIVE, Range, bessel

OF_UNIT_PAIRS = Range(-math.log(2), INFINITE, "unit vectors are at most 2 apart")
CENTERED = (("center", "classes"),)
_KERNEL = (*CENTERED, ("log_distance_centered", True))

OF_MEANS: dict[str, Metric] = {
    "tokens": Metric(
        "Size", "Tokens", "N", "", "Token positions that entered a class.", range=POSITIVE
    ),
    "classes": Metric(
        "Size", "Classes", "K", "", "Classes (word pieces) seen at least once.", range=POSITIVE
    ),
    "cdnv_mean": Metric(
        "NC1",
        "Class-distance normalised variance",
        "NC1 (CDNV)",
        "mean over pairs of (σ_c² + σ_c'²) / (2 d^2p), d = ‖μ_c - μ_c'‖; p = 1 unless the preset "
        "says 2",
        "Mean over pairs of classes: their variance over the squared distance of their means.",
        range=POSITIVE,
        direction=LOWER,
        defined_by="cdnv_power",
        asks="scatter inside a word over its distance to others",
        collapsed="to 0",
    ),
    "cdnv_std": Metric(
        "NC1",
        "Class-distance variance: spread over pairs",
        "std CDNV",
        "std over pairs of the same",
        "Standard deviation of that value over the pairs.",
        range=POSITIVE,
        direction=LOWER,
        defined_by="cdnv_power",
    ),
    "cdnv2_mean": Metric(
        "NC1",
        "Class-distance variance, 4th power",
        "CDNV²",
        "cdnv_mean at p = 2",
        "The class-distance normalised variance with the squared distance squared once more; "
        "it depends on the scale of the features.",
        range=POSITIVE,
        direction=LOWER,
        published=Published(("cdnv",)),
    ),
    "cdnv2_std": Metric(
        "NC1",
        "4th power: spread over pairs",
        "std CDNV²",
        "cdnv_std at p = 2",
        "Standard deviation of that value over the pairs.",
        range=POSITIVE,
        direction=LOWER,
    ),
    "nc1_pinv": Metric(
        "NC1",
        "Within over between (pseudo-inverse)",
        "tr Σ_B⁺Σ_W / K",
        "tr(Σ_B⁺ Σ_W) / K",
        "Within-class scatter measured in units of the between-class scatter, direction by "
        "direction, divided by the number of classes.",
        range=POSITIVE,
        direction=LOWER,
        needs="scatter",
    ),
    "nc1_quotient": Metric(
        "NC1",
        "Within over between",
        "tr Σ_W / tr Σ_B",
        "trace_within / trace_between",
        "Total variance inside classes over the total variance between class means.",
        range=POSITIVE,
        direction=LOWER,
    ),
    "nc1_svd": Metric(
        "NC1",
        "Within over between (leading directions)",
        "tr Σ_B⁺Σ_W / K, K - 1 directions",
        "nc1_pinv with the K - 1 largest eigenvalues of Σ_B",
        "As the pseudo-inverse form, keeping only the directions that separate the classes.",
        range=POSITIVE,
        direction=LOWER,
        needs="scatter",
    ),
    "trace_within": Metric(
        "NC1",
        "Variance inside classes",
        "tr Σ_W",
        "tr Σ_W",
        "Mean squared distance of a token's features to its own class mean.",
        range=POSITIVE,
        direction=LOWER,
    ),
    "trace_between": Metric(
        "NC1",
        "Variance between class means",
        "tr Σ_B",
        "tr Σ_B",
        "Mean squared distance of the class means to their common center; gives the scale.",
        range=POSITIVE,
    ),
    "norm_mean": Metric(
        "NC2",
        "Mean norm of class means",
        "mean ‖m‖",
        "mean of ‖m_c‖ (the preset chooses plain, squared or log)",
        "Mean distance of the class means to their center.",
        range=POSITIVE,  # of log norms, which one preset takes, it can be anything
        defined_by="norms",
        published=Published(("norms_mean",), settings=(*CENTERED, ("norms", "plain"))),
    ),
    "norm_cov": Metric(
        "NC2",
        "Relative spread of norms",
        "NC2 norms",
        "population std of ‖m_c‖ over their mean",
        "Standard deviation of those norms divided by their mean; 0 when all are equal.",
        range=Range(0.0, lambda k: math.sqrt(k - 1), "values that are not negative"),
        direction=LOWER,
        defined_by="norms",
        asks="how unequal the norms of class means are",
        collapsed="to 0",
    ),
    "log_norm_std": Metric(
        "NC2",
        "Spread of log norms",
        "std log ‖m‖",
        "std of log ‖m_c‖",
        "Standard deviation of the logarithm of those norms.",
        range=POSITIVE,
        direction=LOWER,
        published=Published(("norms_log_var",), root=True, settings=CENTERED),
    ),
    "interference_mean": Metric(
        "NC2",
        "Mean cosine between class means",
        "mean cos",
        "mean over pairs of ⟨m̂_c, m̂_c'⟩",
        "Mean cosine over pairs of centered class means; a simplex has -1/(K-1).",
        range=Range(lambda k: -1 / (k - 1), 1.0, "the sum of K unit vectors has a squared length"),
        ratio=False,
    ),
    "interference_std": Metric(
        "NC2",
        "Cosine between means: spread over pairs",
        "NC2 angles",
        "std over pairs of ⟨m̂_c, m̂_c'⟩",
        "0 when all pairs meet at the same angle.",
        range=Range(0.0, lambda k: bessel(k * (k - 1) / 2), "of values in [-1, 1]"),
        direction=LOWER,
        asks="how unequal the angles between them are",
        collapsed="to 0",
    ),
    "equiangularity": Metric(
        "NC2",
        "Distance from equal angles",
        "|cos + 1/(K-1)|",
        "mean over pairs of |⟨m̂_c, m̂_c'⟩ + 1/(K-1)|",
        "Mean absolute difference between a pair's cosine and the simplex's -1/(K-1).",
        range=Range(0.0, lambda k: 1 + 1 / (k - 1), "of cosines"),
        direction=LOWER,
    ),
    "etf_error": Metric(
        "NC2",
        "Distance from a simplex",
        "ETF error",
        "ncfast.geometry.simplex_error of ⟨m_c, m_c'⟩",
        "How far the class means are from a regular simplex.",
        range=Range(0.0, math.sqrt(2), "a Gram matrix has no negative overlap"),
        direction=LOWER,
        published=Published(("etf_error",), settings=CENTERED),
    ),
    "log_distance_mean": Metric(
        "NC2",
        "Hyperspherical crowding (GNC2)",
        "GNC2",
        "mean over pairs of -log ‖m̂_c - m̂_c'‖ (of μ̂ where the preset does not center)",
        "Mean log inverse distance between the directions of two class means; low when they "
        "spread evenly over the sphere.",
        range=OF_UNIT_PAIRS,
        direction=LOWER,
        ratio=False,
        defined_by="log_distance_centered",
        asks="how crowded their directions are",
        # -log of the distance of two unit vectors at a right angle, which a large simplex tends to.
        collapsed="to -0.35",
        published=Published(("log_kern_mean",), settings=_KERNEL),
    ),
    "log_distance_std": Metric(
        "NC2",
        "GNC2: spread over pairs",
        "std GNC2",
        "std over pairs of the same",
        "Standard deviation of that value over the pairs.",
        range=POSITIVE,
        direction=LOWER,
        defined_by="log_distance_centered",
        published=Published(("log_kern_var",), root=True, settings=_KERNEL),
    ),
    "riesz_log_mean": Metric(
        "NC2",
        "Riesz energy of directions, its logarithm",
        "log Riesz",
        "log of the mean over pairs of ‖m̂_c - m̂_c'‖^-s, s = D - 2",
        "Logarithm of the mean Riesz energy of the directions of two class means: as the crowding "
        "above, but decided by the nearest pairs; its scale grows with the width of the features.",
        range=ANY,  # of unit vectors at least -s log 2, which depends on the width
        direction=LOWER,
        ratio=False,
    ),
}
