"""One call of every launch function, so that what it launches can be compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from ncfast.kernels import (
    accumulate_class_moments_,
    alignment,
    between_class_scatter,
    class_moments,
    linear_argmax,
    linear_cross_entropy,
    nearest_center,
    pair_stats,
    within_class_scatter,
)

N, D, V = 512, 1024, 640  # as real ones, multiples of 16; nothing is computed


def _tokens(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.zeros(N, D, dtype=dtype), torch.zeros(N, dtype=torch.int64)


def _matrix() -> Tensor:
    return torch.zeros(D, D, dtype=torch.float64)


def _class_moments(dtype: torch.dtype) -> None:
    x, y = _tokens(dtype)
    counts, means, m2 = class_moments.class_moments(x, y, V)
    class_moments.class_moments_backward(means, m2, x, y, counts, means)


def _within_class_scatter(dtype: torch.dtype) -> None:
    arguments = (*_tokens(dtype), torch.zeros(V, D))
    within_class_scatter.within_class_scatter(*arguments)
    within_class_scatter.within_class_scatter_backward(_matrix(), *arguments, True, True)


def _accumulate_class_moments_(dtype: torch.dtype) -> None:
    counts, m2 = torch.zeros(V, dtype=torch.int64), torch.zeros(V, dtype=torch.float64)
    accumulate_class_moments_.accumulate_class_moments_(
        counts, torch.zeros(V, D), m2, _matrix(), *_tokens(dtype)
    )


def _points(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros(V, D, dtype=dtype), torch.zeros(D), torch.arange(V // 2)


def _between_class_scatter(dtype: torch.dtype) -> None:
    means, center, index = _points(dtype)
    arguments = (means, torch.ones(V // 2, dtype=torch.float64), center, index)
    between_class_scatter.between_class_scatter(*arguments)
    between_class_scatter.between_class_scatter_backward(_matrix(), *arguments, True, True)


def _alignment(dtype: torch.dtype) -> None:
    points, center, index = _points(dtype)
    cosines = alignment.alignment(points, points, center, index)
    alignment.alignment_backward(cosines, points, points, center, index, True, True, True)


def _linear_argmax(dtype: torch.dtype) -> None:
    points, _, index = _points(dtype)
    bias = torch.zeros(V)
    linear_argmax.linear_argmax(_tokens(dtype)[0], points, bias, index)
    nearest_center.nearest_center(_tokens(dtype)[0], points.float(), index)


def _pair_stats(dtype: torch.dtype) -> None:
    points, center, index = _points(dtype)
    kinds, powers = (0, 0, 1, 2, 3), (1, 2, 1, 1, 1)
    variances = torch.ones(V, dtype=torch.float64)
    edges = torch.zeros(5, 65, dtype=torch.float64)
    call = (points, variances, center, index)
    stats = pair_stats.pair_stats(*call, edges, kinds, powers, (0.0,) * 5)[0]
    pair_stats.pair_stats_backward(stats, *call, stats, kinds, powers, True, True, True)


def _pair_stats_uncounted(dtype: torch.dtype) -> None:
    points, center, index = _points(dtype)
    call = (points, torch.ones(V, dtype=torch.float64), center, index, None)
    pair_stats.pair_stats(*call, (0, 1, 2), (1, 1, 1), (0.0,) * 3)


def _pair_stats_energies(dtype: torch.dtype) -> None:
    points, center, index = _points(dtype)
    kinds, powers, edges = (1, 4), (1, D - 2), torch.zeros(2, 65, dtype=torch.float64)
    call = (points, None, center, index)
    stats = pair_stats.pair_stats(*call, edges, kinds, powers, (0.0,) * 2)[0]
    pair_stats.pair_stats_backward(stats, *call, stats, kinds, powers, True, True, True)


def _linear_cross_entropy(dtype: torch.dtype) -> None:
    (x, y), head, bias = _tokens(dtype), torch.zeros(V, D, dtype=dtype), torch.zeros(V)
    settings = (30.0, 0, V, 0.0)
    nll, lse, logits = linear_cross_entropy.linear_cross_entropy(
        x, head, y, bias, *settings, 4 * N * V, True
    )
    inputs = (x, head, y, bias, lse, logits)
    linear_cross_entropy.linear_cross_entropy_backward(nll, lse, *inputs, *settings, *(True,) * 3)


# Of several launches of a kernel the first counts: scatters of tokens before those of means.
LAUNCHES = (
    _class_moments,
    _within_class_scatter,
    _accumulate_class_moments_,
    _between_class_scatter,
    _alignment,
    _linear_argmax,
    _pair_stats,
    _pair_stats_uncounted,
    _pair_stats_energies,
    _linear_cross_entropy,
)
