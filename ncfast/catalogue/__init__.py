"""Every metric named once: its key, symbol, formula, range and words. Imports no torch.

To add a metric: an entry in :mod:`.of_means`, :mod:`.of_head` or :mod:`.of_rounding`, and the line
in ``ncfast/metrics`` that computes it. Reports,
comparisons, the torchmetrics metric, ranges and the documentation follow from the entry.

>>> METRICS["nc3_mean"].symbol, METRICS["nc3_mean"].range.ends(5)
('NC3', (-1.0, 1.0))
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable

from .metric import FAMILIES, HIGHER, LOWER, Metric, Published
from .of_head import OF_HEAD
from .of_means import OF_MEANS
from .of_rounding import OF_ROUNDING
from .range import ANY, PER_CLASS, ROUNDING, Range

__all__ = [
    "FAMILIES",
    "HIGHER",
    "KEYS",
    "LEADING",
    "LETTERS",
    "LOWER",
    "METRICS",
    "PER_CLASS",
    "ROUNDING",
    "Metric",
    "Published",
    "Range",
    "explain_metric",
    "formulas",
    "keys_that_need",
    "ordered_keys",
    "range_of",
    "remark",
]

LETTERS = (
    "K classes c with means μ_c of n_c of N tokens; m_c = μ_c less their center; σ_c² the mean "
    "squared distance of a class's tokens to μ_c; w_c rows of the head; a hat (m̂, ŵ): length 1; "
    "s_c = ⟨ŵ_c, m̂_c⟩; pairs are c < c', Σ_W = (1/N) Σ_i (x_i - μ_yi)(x_i - μ_yi)ᵀ, "
    "Σ_B = (1/K) Σ_c m_c m_cᵀ. Standard deviations and variances are Bessel-corrected."
)

METRICS: dict[str, Metric] = OF_MEANS | OF_HEAD | OF_ROUNDING
KEYS = tuple(METRICS)
# What the papers compare: the rows a reader needs first.
LEADING = {key: metric for key, metric in METRICS.items() if metric.asks}


def explain_metric(key: str) -> Metric:
    """Return the entry of a metric, or a bare one for a key of another version.

    >>> explain_metric("brand_new").family
    'Other'
    """
    return METRICS.get(key) or Metric("Other", key, "", "", "", range=ANY)


def ordered_keys(keys: Iterable[str]) -> list[str]:
    """Return every key once, in the order of the catalogue; unknown ones last, as they came.

    >>> ordered_keys(["unc3_std", "new", "tokens", "nc3_mean"])
    ['tokens', 'nc3_mean', 'unc3_std', 'new']
    """
    place = {key: index for index, key in enumerate(KEYS)}
    return sorted(dict.fromkeys(keys), key=lambda key: place.get(key, len(place)))


def keys_that_need(what: str) -> tuple[str, ...]:
    """Return the keys that are undefined without something: ``head``, ``scatter``, ...

    >>> keys_that_need("scatter")[:3]
    ('nc1_pinv', 'nc1_svd', 'rank_between')
    """
    return tuple(key for key, metric in METRICS.items() if metric.needs == what)


def formulas() -> str:
    """Return the table of keys and formulas, for a docstring.

    >>> formulas().splitlines()[0].split()[0]
    'tokens'
    """
    lines = []
    for key, metric in METRICS.items():
        text = metric.formula or metric.meaning
        lines += textwrap.wrap(f"{key:<20} {text}", 92, subsequent_indent=" " * 21)
    return "\n".join(lines)


def range_of(key: str, norms: str = "plain") -> Range:
    """Return the range of a key; the norms of the preset decide that of two.

    >>> range_of("norm_mean", "log").low
    -inf
    """
    return ANY if norms == "log" and METRICS[key].defined_by == "norms" else METRICS[key].range


def remark(key: str, value: float, classes: int, norms: str = "plain") -> str:
    """Say whether a value lies on the edge of its range or beyond it; "" where inside.

    Args:
        key: the metric.
        value: finite.
        classes: K.
        norms: the preset's.

    >>> remark("nc3_mean", 1.0, 9), remark("nc3_mean", 0.5, 9)
    ('at its greatest possible value, 1', '')
    """
    found = range_of(key, norms)
    for end, name, sign in zip(found.ends(classes), ("least", "greatest"), (1, -1), strict=True):
        if math.isinf(end) or METRICS[key].aside:
            continue
        inside = sign * (value - end)
        tolerance = ROUNDING * max(1.0, abs(end)) if end else 0.0
        if inside < -tolerance:
            return (
                f"beyond its {name} possible value, {end:.6g} ({found.why}): a fault of ncfast, "
                "please report it"
            )
        if inside <= tolerance:
            return f"at its {name} possible value, {end:.6g}"
    return ""
