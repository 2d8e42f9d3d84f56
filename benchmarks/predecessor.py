"""The predecessor's algorithms, written anew from their description, with their tile sizes.

Class sums are products of one-hot rows; pairs are visited one by one as differences of points and
kept in a K x K grid, which a loop over its rows then reduces; decisions keep all scores of a batch.
Its digest of the means at every batch is left out: that is a guard and no part of the algorithm.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ncfast.bench.contract import Inputs, Prepare, Prepared

__all__ = ["BATCH", "PAIR_TILE", "TABLE", "batches", "share"]

BATCH = 2_048
PAIR_TILE = 64
# One-hot products of all tokens at V = 30,522 take minutes: some batches show the rate.
_MOST_BATCHES = 2


def batches(inputs: Inputs) -> list[tuple[Tensor, Tensor]]:
    """Return the first batches of tokens, features at least float32, and their labels."""
    x = inputs.x[: BATCH * _MOST_BATCHES]
    wide = x if x.dtype == torch.float64 else x.float()
    return list(zip(wide.split(BATCH), inputs.y[: x.shape[0]].split(BATCH), strict=True))


def share(inputs: Inputs) -> tuple[float, str]:
    """Return what to multiply the time of those batches by, and how to say so."""
    timed = min(inputs.tokens, BATCH * _MOST_BATCHES)
    scale = inputs.tokens / timed
    part = f"; timed on {timed:,} tokens, times {scale:g}" if scale > 1 else ""
    return scale, f"batches of {BATCH:,}{part}"


def _one_hot(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    return (labels[:, None] == torch.arange(classes)).to(dtype)


def _add_sums(sums: Tensor, counts: Tensor, parts: list[tuple[Tensor, Tensor]]) -> None:
    for tokens, labels in parts:
        member = _one_hot(labels, counts.numel(), tokens.dtype)
        sums += member.T @ tokens
        counts += member.sum(0).to(torch.int64)


def _accumulate(inputs: Inputs) -> Prepared:
    counts, sums = inputs.state[:2]
    sums.mul_(counts[:, None])  # the buffer that holds running means for others
    parts, (scale, note) = batches(inputs), share(inputs)
    return Prepared(
        lambda: _add_sums(sums, counts, parts),
        lambda _: {"counts": counts, "means": sums / counts[:, None]},
        scale,
        f"one-hot products, {note}; no spread",
    )


def _class_moments(inputs: Inputs) -> Prepared:
    parts, (scale, note) = batches(inputs), share(inputs)
    classes, dtype = inputs.classes, parts[0][0].dtype

    def call() -> tuple[Tensor, Tensor, Tensor]:
        counts = torch.zeros(classes, dtype=torch.int64)
        means = torch.zeros(classes, inputs.width, dtype=dtype)
        _add_sums(means, counts, parts)
        means /= counts.clamp(min=1)[:, None]
        spread = torch.zeros(classes, dtype=dtype)
        for tokens, labels in parts:
            member = _one_hot(labels, classes, dtype)
            spread += (member.T @ (tokens - means[labels]).square()).sum(1)
        return counts, means, spread

    return Prepared(
        call,
        lambda out: dict(zip(("counts", "means", "m2"), out, strict=True)),
        scale,
        f"one-hot products, two passes, {note}",
    )


def _within(inputs: Inputs) -> Prepared:
    parts, (scale, note) = batches(inputs), share(inputs)

    def call() -> Tensor:
        counts = torch.zeros(inputs.classes, dtype=torch.int64)
        total = torch.zeros(inputs.width, inputs.width, dtype=parts[0][0].dtype)
        for tokens, labels in parts:
            counts += _one_hot(labels, inputs.classes, torch.bool).sum(0)
            residuals = tokens - inputs.means[labels]
            total += residuals.T @ residuals
        return total

    return Prepared(call, lambda out: {"scatter": out}, scale, f"one-hot counts, {note}")


def _tiles(size: int) -> Iterator[slice]:
    return (slice(begin, begin + PAIR_TILE) for begin in range(0, size, PAIR_TILE))


def _square_distances(a: Tensor, b: Tensor) -> Tensor:
    differences = a[:, None] - b  # [B, B, D]
    return differences.square().sum(-1)


def _cdnv_grid(points: Tensor, variances: Tensor) -> Tensor:
    grid = points.new_zeros(len(points), len(points))
    for i in _tiles(len(points)):
        for j in _tiles(len(points)):
            middle = (variances[i, None] + variances[j]) / 2
            grid[i, j] = middle / _square_distances(points[i], points[j])
    return grid


def _log_grid(points: Tensor) -> Tensor:
    grid = points.new_zeros(len(points), len(points))
    for i in _tiles(len(points)):
        for j in _tiles(len(points)):
            grid[i, j] = _square_distances(points[i], points[j]).sqrt().reciprocal().log()
    return grid


def _upper_mean(grid: Tensor, about: Tensor | None = None) -> Tensor:
    """Return the mean (or mean square about a value) of the upper triangle, row after row."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(grid) - 1):
        row = grid[i, i + 1 :]
        total += row.sum() if about is None else (row - about).square().sum()
    return total / (len(grid) * (len(grid) - 1) / 2)


def _pairs(inputs: Inputs) -> Prepared:
    points, variances = inputs.means, inputs.variances

    def call() -> dict[str, Tensor]:
        found = {"cdnv mean": _upper_mean(_cdnv_grid(points, variances))}
        centred = points - points.mean(0)
        grid = _log_grid(centred / centred.norm(dim=1, keepdim=True))
        mean = _upper_mean(grid)
        return found | {
            "log_distance mean": mean,
            "log_distance variance": _upper_mean(grid, mean),
        }

    note = f"K x K grid from {PAIR_TILE} x {PAIR_TILE} x D differences"
    return Prepared(call, lambda out: out, note=note)


def _decide(inputs: Inputs) -> Prepared:
    parts, (scale, note) = batches(inputs), share(inputs)
    means, head_weight = inputs.means, inputs.head_weight

    def call() -> tuple[Any, Any]:
        nearest, best = [], []
        for tokens, _ in parts:
            inner = tokens @ means.T
            squares = tokens.square().sum(1)[:, None] + means.square().sum(1) - 2 * inner
            nearest.append(squares.argmin(1))
            best.append((tokens @ head_weight.T).argmax(1))
        return torch.cat(nearest), torch.cat(best)

    return Prepared(
        call,
        lambda out: {
            "nearest class": out[0],
            "linear class": out[1],
            "agreement": (out[0] == out[1]).sum(),
        },
        scale,
        f"B x K distances and scores, {note}; no margins",
    )


TABLE: dict[str, Prepare] = {
    "accumulate_class_moments_": _accumulate,
    "class_moments": _class_moments,
    "within_class_scatter": _within,
    "pair_stats": _pairs,
    "nearest_center and linear_argmax": _decide,
}
