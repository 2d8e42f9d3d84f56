"""Which of two arms is less biased: the nearer one to unbiased, where that was tested."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .inference import LEVEL, sign_flip
from .parts import Endpoint

__all__ = ["direction", "nearer"]

Pairs = Sequence[tuple[Any, Any]]


def direction(endpoint: Endpoint, pairs: Pairs, tested: bool) -> tuple[bool | None, str]:
    """Tell whether the first arm is less biased than the second, or None, and what to note of it.

    A test that two arms differ says that one is less biased only while both means lie on one side
    of unbiased: +0.5 differs from -0.5 and is as far from 0. Past it, the distances are tested too,
    seed by seed, where the difference is.
    """
    found = nearer(endpoint, pairs)
    unbiased = pairs[0][0].get("unbiased") if pairs else None
    if unbiased is None:
        return found, ""
    signed = np.array([[x["value"] - unbiased for x in pair] for pair in pairs])
    if np.prod(signed.mean(axis=0)) >= 0:
        return found, ""
    if not tested:
        return None, "on the other side of unbiased"
    p = sign_flip([float(one - two) for one, two in np.abs(signed)])
    said = f"on the other side of unbiased, p {p:.3g} of the distances from it"
    return found if p <= LEVEL else None, said


def nearer(endpoint: Endpoint, pairs: Pairs) -> bool | None:
    """Tell whether the first arm's mean is nearer to unbiased than the second's, or as good says.

    Not by the sign of the difference alone: below an unbiased 50 %, or past 0, less is more biased.
    """
    if not pairs:
        return None
    one, two = (float(np.mean([pair[k]["value"] for pair in pairs])) for k in (0, 1))
    unbiased = pairs[0][0].get("unbiased")
    if unbiased is not None:
        return abs(one - unbiased) < abs(two - unbiased)
    if endpoint.good == "none":
        return None
    return one < two if endpoint.good == "low" else one > two
