"""What every metric of a report means, in words a reader without the code understands.

The numeric wing names the keys; this file only explains them. A key that is missing here is still
shown in every report, under its own name and without an explanation, so a new metric never hides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

LOWER = "lower = more collapsed"
HIGHER = "higher = more collapsed"

FAMILIES: dict[str, str] = {
    "Size": "How much was measured.",
    "NC1": "Within-class variability: do all occurrences of a word share one vector?",
    "NC2": "Geometry of the class means: are they equally long and spread evenly?",
    "NC3": "Duality: does a word's class mean point where its row of the output head points?",
    "NC4": "Decisions: does the nearest class mean choose the same word as the output head?",
    "Calibrated": "NC1 and NC2 with the rows of the output head in place of the class means.",
    "Other": "Further values.",
}


@dataclass(frozen=True)
class Explanation:
    """Hold what a reader needs to know about one metric.

    Args:
        family: a key of ``FAMILIES``.
        title: the short name shown in tables.
        meaning: one sentence in plain language.
        direction: which way is more collapsed; empty where neither way is.
        ratio: whether a ratio of two values means something; not where zero is no amount, as of
            a logarithm or of a mean that can have either sign.

    Example:
        >>> explain_metric("nc3_mean").family
        'NC3'
    """

    family: str
    title: str
    meaning: str
    direction: str = ""
    ratio: bool = True


METRICS: dict[str, Explanation] = {
    "tokens": Explanation("Size", "Tokens", "Token positions that entered a class."),
    "classes": Explanation("Size", "Classes", "Classes (word pieces) seen at least once."),
    "cdnv_mean": Explanation(
        "NC1",
        "Class-distance normalised variance",
        "Mean over pairs of classes: their variance over the squared distance of their means.",
        LOWER,
    ),
    "cdnv_std": Explanation(
        "NC1",
        "Class-distance variance: spread over pairs",
        "Standard deviation of that value over the pairs.",
        LOWER,
    ),
    "cdnv2_mean": Explanation(
        "NC1",
        "Class-distance variance, 4th power",
        "The class-distance normalised variance with the squared distance squared once more; "
        "it depends on the scale of the features.",
        LOWER,
    ),
    "cdnv2_std": Explanation(
        "NC1",
        "4th power: spread over pairs",
        "Standard deviation of that value over the pairs.",
        LOWER,
    ),
    "nc1_pinv": Explanation(
        "NC1",
        "Within over between (pseudo-inverse)",
        "Within-class scatter measured in units of the between-class scatter, direction by "
        "direction, divided by the number of classes.",
        LOWER,
    ),
    "nc1_quotient": Explanation(
        "NC1",
        "Within over between",
        "Total variance inside classes over the total variance between class means.",
        LOWER,
    ),
    "nc1_svd": Explanation(
        "NC1",
        "Within over between (leading directions)",
        "As the pseudo-inverse form, keeping only the directions that separate the classes.",
        LOWER,
    ),
    "trace_within": Explanation(
        "NC1",
        "Variance inside classes",
        "Mean squared distance of a token's features to its own class mean.",
        LOWER,
    ),
    "trace_between": Explanation(
        "NC1",
        "Variance between class means",
        "Mean squared distance of the class means to their common centre; gives the scale.",
    ),
    "norm_mean": Explanation(
        "NC2", "Mean length of class means", "Mean distance of the class means to their centre."
    ),
    "norm_cov": Explanation(
        "NC2",
        "Relative spread of lengths",
        "Standard deviation of those lengths divided by their mean; 0 when all are equal.",
        LOWER,
    ),
    "log_norm_std": Explanation(
        "NC2",
        "Spread of log lengths",
        "Standard deviation of the logarithm of those lengths.",
        LOWER,
    ),
    "interference_mean": Explanation(
        "NC2",
        "Mean cosine between class means",
        "Mean cosine over pairs of centred class means; a simplex has -1/(K-1).",
        ratio=False,
    ),
    "interference_std": Explanation(
        "NC2",
        "Cosine between means: spread over pairs",
        "0 when all pairs meet at the same angle.",
        LOWER,
    ),
    "equiangularity": Explanation(
        "NC2",
        "Distance from equal angles",
        "Mean absolute difference between a pair's cosine and the simplex's -1/(K-1).",
        LOWER,
    ),
    "etf_error": Explanation(
        "NC2",
        "Distance from a simplex",
        "How far the class means are from a regular simplex.",
        LOWER,
    ),
    "log_distance_mean": Explanation(
        "NC2",
        "Hyperspherical crowding (GNC2)",
        "Mean log inverse distance between the directions of two class means; low when they "
        "spread evenly over the sphere.",
        LOWER,
        ratio=False,
    ),
    "log_distance_std": Explanation(
        "NC2", "GNC2: spread over pairs", "Standard deviation of that value over the pairs.", LOWER
    ),
    "nc3_mean": Explanation(
        "NC3",
        "Mean cosine, class mean and head row",
        "1 when every class mean points exactly along its row of the output head; 0 when they "
        "have nothing to do with each other.",
        HIGHER,
    ),
    "nc3_distance": Explanation(
        "NC3",
        "Mean distance of the two directions",
        "Distance between the class mean and the head row, both scaled to length 1; 0 to 2.",
        LOWER,
    ),
    "self_duality_error": Explanation(
        "NC3",
        "Joint duality error",
        "How far the products of head rows and class means are from a simplex.",
        LOWER,
    ),
    "unc3_std": Explanation(
        "NC3",
        "(U)NC3: spread of the cosines",
        "Standard deviation of the cosines over the classes; 0 when every word is equally well "
        "aligned, however well that is.",
        LOWER,
    ),
    "unc3_var": Explanation(
        "NC3", "(U)NC3 as variance", "The square of the spread of the cosines.", LOWER
    ),
    "unc3_cov": Explanation(
        "NC3",
        "(U)NC3 relative to the mean",
        "Spread of the cosines divided by their mean; unstable when the mean is near 0.",
        LOWER,
    ),
    "nc4_agreement": Explanation(
        "NC4",
        "Agreement with the nearest class mean",
        "Share of held-out tokens for which head and nearest class mean choose the same word.",
        HIGHER,
    ),
    "nc1w_mean": Explanation(
        "Calibrated",
        "NC1 with head rows",
        "Class variance over the squared distance of the two rows of the output head.",
        LOWER,
    ),
    "nc1w2_mean": Explanation(
        "Calibrated",
        "NC1 with head rows, 4th power",
        "With the squared distance squared.",
        LOWER,
    ),
    "gnc2w_mean": Explanation(
        "Calibrated",
        "GNC2 of head rows",
        "Mean log inverse distance between rows of the output head, as they are.",
        LOWER,
        ratio=False,
    ),
    "gnc2w_unit_mean": Explanation(
        "Calibrated",
        "GNC2 of head directions",
        "The same for rows scaled to length 1.",
        LOWER,
        ratio=False,
    ),
}


def explain_metric(key: str) -> Explanation:
    """Return the explanation of a metric, or a bare one for a key this file does not know.

    Args:
        key: a key of an ``NCReport``.

    Returns:
        The ``Explanation``; never fails, so that a new metric is always shown.

    Example:
        >>> explain_metric("brand_new").family
        'Other'
    """
    return METRICS.get(key) or Explanation("Other", key, "")


def ordered_keys(keys: Iterable[str]) -> list[str]:
    """Order metric keys by family, and inside a family as this file lists them.

    Args:
        keys: metric keys, in any order, repeats allowed.

    Returns:
        Every key once; unknown keys at the end of family "Other", in the order given.

    Example:
        >>> ordered_keys(["unc3_std", "tokens", "nc3_mean"])
        ['tokens', 'nc3_mean', 'unc3_std']
    """
    unique = list(dict.fromkeys(keys))
    families = list(FAMILIES)
    known = list(METRICS)
    # sorted() is stable: unknown keys share one rank and so keep the order in which they came.
    return sorted(
        unique,
        key=lambda key: (
            families.index(explain_metric(key).family),
            known.index(key) if key in METRICS else len(known),
        ),
    )
