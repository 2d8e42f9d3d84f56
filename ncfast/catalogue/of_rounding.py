"""The catalogue's numbers on the numbers: what rounding leaves undecided, and how clearly."""

from __future__ import annotations

from .metric import Metric
from .range import INFINITE, Range

_COUNT = Range(0.0, INFINITE, "a count")

OF_ROUNDING: dict[str, Metric] = {
    "rank_between": Metric(
        "Rounding",
        "Rank of Σ_B",
        "rank Σ_B",
        "eigenvalues of Σ_B above their cut-off",
        "Directions in which class means differ by more than their rounding explains; the others "
        "have no part in the pseudo-inverse.",
        range=_COUNT,
        ratio=False,
        needs="scatter",
    ),
    "rank_dropped": Metric(
        "Rounding",
        "Directions left out of Σ_B",
        "D - rank Σ_B",
        "D - rank_between",
        "Directions of the feature space in which class means do not differ, or by rounding alone; "
        "at least D - K, and one more about the mean of the classes measured.",
        range=_COUNT,
        ratio=False,
        needs="scatter",
    ),
    "rank_kept_margin": Metric(
        "Rounding",
        "Least eigenvalue kept, over its cut-off",
        "λ kept / cut",
        "least λ / cut-off(λ) over the eigenvalues λ of Σ_B that are kept",
        "How far above the cut-off the least direction that counts is; below 10 the rank, and the "
        "pseudo-inverse with it, depends on where the cut-off lies.",
        range=Range(1.0, INFINITE, "what is kept is above its cut-off"),
        ratio=False,
        needs="scatter",
    ),
    "rank_dropped_margin": Metric(
        "Rounding",
        "Largest eigenvalue left out, over its cut-off",
        "λ dropped / cut",
        "largest λ / cut-off(λ) over the eigenvalues λ of Σ_B that are left out; 0 where none is",
        "How near the cut-off the largest direction that does not count comes; above 0.1 the rank "
        "depends on where the cut-off lies.",
        range=Range(0.0, 1.0, "what is left out is not above its cut-off"),
        ratio=False,
        needs="scatter",
    ),
    "pairs_left_out": Metric(
        "Rounding",
        "Pairs of class means that cannot be told apart",
        "pairs left out",
        "pairs with ‖μ_c - μ_c'‖ at most their rounding, among those visited",
        "Pairs of classes whose means are equal, or differ by no more than rounding explains: they "
        "have no class-distance normalised variance and no log distance.",
        range=_COUNT,
        ratio=False,
    ),
    "means_at_center": Metric(
        "Rounding",
        "Class means at the center",
        "means at the center",
        "classes with ‖m_c‖ at most the rounding of μ_c and of the center",
        "Classes whose mean has no direction: their cosines count as 0, their log distances are "
        "left out.",
        range=_COUNT,
        ratio=False,
    ),
}
