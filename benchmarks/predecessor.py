"""The real ``neural_collapse`` package, where it can be imported: an adapter, none of its code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

TOKENS = 2_048  # a batch, as in the one-hot provider


def prepare(op: str, inputs: dict[str, Any]) -> Callable[[], Any] | None:
    """Return one call of the package's own accumulators on these inputs, or None."""
    from neural_collapse.accumulate import CovarAccumulator, MeanAccumulator, VarNormAccumulator

    x, y, means = inputs["x"].float(), inputs["y"], inputs["means"]
    classes, width = inputs["num_classes"], inputs["x"].shape[1]
    batches = list(zip(x.split(TOKENS), y.split(TOKENS), strict=True))

    def sums() -> Any:
        accumulator = MeanAccumulator(classes, width)
        for tokens, labels in batches:
            accumulator.accumulate(tokens, labels)
        return (accumulator.compute()[0],)

    def moments() -> Any:
        (mean,) = sums()
        spread = VarNormAccumulator(classes, width, M=mean)
        for tokens, labels in batches:
            spread.accumulate(tokens, labels, mean)
        return torch.bincount(y, minlength=classes), mean, spread.totals

    def scatter() -> Any:
        accumulator = CovarAccumulator(classes, width, M=means)
        for tokens, labels in batches:
            accumulator.accumulate(tokens, labels, means)
        return (accumulator.totals,)

    table = {
        "accumulate_class_moments_": sums,
        "class_moments": moments,
        "within_class_scatter": scatter,
    }
    return table.get(op)
