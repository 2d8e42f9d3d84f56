"""Which values of a report a metric of features, labels and a head can give."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from ..catalogue import KEYS, keys_that_need

__all__ = ["OF_HEAD", "SHOWN", "checked_keys"]

SHOWN = ("nc1_quotient", "norm_cov", "nc3_mean", "unc3_std")
OF_SCATTER, OF_HEAD = keys_that_need("scatter"), keys_that_need("head")
# They ask for more than features, labels and a head.
ELSEWHERE = (*keys_that_need("agreement"), *keys_that_need("ood_mean"))


def checked_keys(keys: Iterable[str] | None, scatter: bool) -> tuple[str, ...]:
    """Return the keys, all that there are for None, or raise at one that there cannot be.

    >>> checked_keys(["trace_within"], False)
    ('trace_within',)
    """
    if keys is None:
        absent = (*ELSEWHERE, *(() if scatter else OF_SCATTER))
        return tuple(key for key in KEYS if key not in absent)
    chosen = tuple(keys)
    if not chosen:
        raise ValueError("NeuralCollapse: keys is empty; expected at least one, or None for all")
    for key in chosen:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, 1)
            meant = f"; did you mean {near[0]!r}?" if near else f"; expected some of {KEYS}"
            raise ValueError(f"NeuralCollapse: keys names {key!r}, which is unknown{meant}")
        if key in ELSEWHERE:
            raise ValueError(
                f"NeuralCollapse: {key} needs more than features, labels and a head; expected "
                "ncfast.neural_collapse to be asked for it"
            )
        if key in OF_SCATTER and not scatter:
            raise ValueError(f"NeuralCollapse: {key} needs scatter=True; got scatter=False")
    return chosen
