"""The real ``neural_collapse`` package, where it can be imported: an adapter, none of its code."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from ncfast.bench.contract import Absent, Inputs, Prepare, Prepared

from .predecessor import PAIR_TILE, batches, share

__all__ = ["TABLE"]


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"neural_collapse.{name}")
    except ImportError as error:
        raise Absent(f"cannot be imported: {error}") from None


def _sums(inputs: Inputs) -> Any:
    kind = _module("accumulate").MeanAccumulator
    return kind(inputs.classes, inputs.width, dtype=inputs.means.dtype)


def _accumulate(inputs: Inputs) -> Prepared:
    accumulator = _sums(inputs)
    counts, sums = inputs.state[:2]
    sums.mul_(counts[:, None])  # the buffer that holds running means for others
    accumulator.totals, accumulator.ns_samples = sums, counts.int()
    parts, (scale, note) = batches(inputs), share(inputs)

    def call() -> None:
        for tokens, labels in parts:
            accumulator.accumulate(tokens, labels)

    return Prepared(
        call,
        lambda _: {
            "counts": accumulator.ns_samples.to(torch.int64),
            "means": accumulator.compute()[0],
        },
        scale,
        f"{note}; no spread",
    )


def _class_moments(inputs: Inputs) -> Prepared:
    kind = _module("accumulate").VarNormAccumulator
    parts, (scale, note) = batches(inputs), share(inputs)

    def call() -> tuple[Tensor, Tensor, Tensor]:
        sums = _sums(inputs)
        for tokens, labels in parts:
            sums.accumulate(tokens, labels)
        means = sums.compute()[0]
        spread = kind(inputs.classes, inputs.width, M=means, dtype=means.dtype)
        for tokens, labels in parts:
            spread.accumulate(tokens, labels, means)
        return sums.ns_samples, means, spread.totals

    return Prepared(
        call,
        lambda out: {"counts": out[0].to(torch.int64), "means": out[1], "m2": out[2]},
        scale,
        f"two passes, {note}",
    )


def _within(inputs: Inputs) -> Prepared:
    kind = _module("accumulate").CovarAccumulator
    parts, (scale, note) = batches(inputs), share(inputs)

    def call() -> Tensor:
        means = inputs.means
        accumulator = kind(inputs.classes, inputs.width, M=means, dtype=means.dtype)
        for tokens, labels in parts:
            accumulator.accumulate(tokens, labels, means)
        totals: Tensor = accumulator.totals
        return totals

    return Prepared(call, lambda out: {"scatter": out}, scale, note)


def _pairs(inputs: Inputs) -> Prepared:
    measure, kernels = _module("measure"), _module("kernels")
    points, variances = inputs.means, inputs.variances
    if inputs.classes % PAIR_TILE == 1:
        raise Absent("fails where its last tile is one row")

    def call() -> dict[str, float]:
        cdnv = measure.variability_cdnv(variances, points, tile_size=PAIR_TILE)
        mean, variance = kernels.kernel_stats(
            points, points.mean(0), kernels.log_kernel, tile_size=PAIR_TILE
        )
        return {
            "cdnv mean": cdnv,
            "log_distance mean": mean,
            "log_distance variance": variance,
        }

    return Prepared(
        call,
        lambda out: {key: torch.tensor(value).double() for key, value in out.items()},
        note=f"tiles of {PAIR_TILE}",
    )


def _decide(inputs: Inputs) -> Prepared:
    kind = _module("accumulate").DecAccumulator
    parts, (scale, note) = batches(inputs), share(inputs)
    means, head_weight = inputs.means, inputs.head_weight

    def call() -> Any:
        accumulator = kind(inputs.classes, inputs.width, M=means, W=head_weight, dtype=means.dtype)
        for tokens, labels in parts:
            accumulator.accumulate(tokens, labels, head_weight, means)
        return accumulator.totals

    return Prepared(
        call,
        lambda out: {"agreement": out.sum().to(torch.int64)},
        scale,
        f"{note}; counts agreements only",
    )


TABLE: dict[str, Prepare] = {
    "accumulate_class_moments_": _accumulate,
    "class_moments": _class_moments,
    "within_class_scatter": _within,
    "pair_stats": _pairs,
    "nearest_center and linear_argmax": _decide,
}
