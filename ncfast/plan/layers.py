"""A deep model from two shallow ones: layers that are alike take alike.

A step of a model of n + p layers does what one of n layers does, and p layers more in the middle of
the forward and of the backward pass. Without these, its operations are those of the shorter model,
one by one, and the bytes alive at each grow by the same amount for every p layers more. So two
shallow steps give the whole course of a deep one; where the layers are not alike, it is run whole.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..training.account import Account
from ..training.live_bytes import Moment

__all__ = ["alike", "deeper", "shallow"]

Marked = Sequence[tuple[int, str]]
FEWEST = 4  # layers of the shorter model: two at either end


def alike(config: Any, shapes: Callable[[Any], list[Any]]) -> int | None:
    """Find after how many layers a model repeats itself, by the shapes of every layer's parameters.

    None where it does not repeat, or has too few layers to be worth it.

    >>> from transformers import LlamaConfig
    >>> alike(LlamaConfig(num_hidden_layers=12), lambda config: [1] * 12)
    2
    """
    layers = getattr(config, "num_hidden_layers", 0)
    types = list(getattr(config, "layer_types", None) or [""] * layers)
    period = next((p for p in range(2, 9) if types[p:] == types[:-p]), None)
    if period is None or layers <= 2 * period + FEWEST or (layers - FEWEST) % period:
        return None
    found = shapes(config)
    if len(found) != layers or found[period:] != found[:-period]:
        return None
    return period


def shallow(config: Any, layers: int) -> Any:
    """Return a configuration with fewer layers, the first of them.

    >>> from transformers import LlamaConfig
    >>> shallow(LlamaConfig(), 4).num_hidden_layers
    4
    """
    found = copy.deepcopy(config)
    found.num_hidden_layers = layers
    if types := getattr(config, "layer_types", None):
        found.layer_types = list(types)[:layers]
    return found


def deeper(
    few: tuple[Account, Marked], more: tuple[Account, Marked], period: int, layers: int
) -> Account:
    """Return the account of a deep model from those of two shallow ones, with their marks' layers.

    ``few`` has ``FEWEST`` layers, ``more`` a ``period`` more, after which the model repeats itself.
    The timeline leaves out layers in the middle, whose bytes lie between. Two steps that are not of
    one course are a ValueError.
    """
    times = (layers - FEWEST) / period
    short, long = few[0].timeline, _without(more, FEWEST // 2, FEWEST // 2 + period)
    if len(short) != len(long):
        raise ValueError(f"a step of {len(short)} operations against {len(long)}; expected as many")
    timeline = [
        Moment(*(round(a + times * (b - a)) for a, b in zip(one, two, strict=True)))
        for one, two in zip(short, long, strict=True)
    ]
    fixed = {
        key: round(value + times * (more[0].fixed[key] - value))
        for key, value in few[0].fixed.items()
    }
    if more[0].fixed["temporaries"] == few[0].fixed["temporaries"]:
        fixed["temporaries"] = few[0].fixed["temporaries"]
    shape = dict(few[0].shape)
    shape["recompute"] = layers if shape["recompute"] == shape["layers"] else shape["recompute"]
    shape["layers"] = layers
    return replace(few[0], fixed=fixed, timeline=timeline, shape=shape)


def _without(found: tuple[Account, Marked], first: int, second: int) -> list[Moment]:
    """Leave out what lies between two layers: forward from first to second, backward again."""
    account, marked = found
    timeline, kept, start = account.timeline, [], 0
    for begin, end in _pairs(account.marks, marked, first, second):
        kept += timeline[start:begin]
        start = end
    return kept + timeline[start:]


def _pairs(marks: Sequence[int], marked: Marked, first: int, second: int) -> list[tuple[int, int]]:
    opening = {"forward": first, "backward": second}
    closing = {"forward": second, "backward": first}
    begin, pairs = None, []
    for place, (number, way) in zip(marks, marked, strict=True):
        if number == opening[way] and begin is None:
            begin = place
        elif number == closing[way] and begin is not None:
            pairs.append((begin, place))
            begin = None
    return pairs
